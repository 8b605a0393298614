"""Heads: other outputs than the image, computed from the codes."""
