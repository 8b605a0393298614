"""Towers: vision transformers of foundation models, as the part of an encoder that knows what things mean."""
