"""Towers: vision transformers of foundation models, used as semantic encoders."""
