"""Conditioners: captions to what a decoder reads besides codes."""
