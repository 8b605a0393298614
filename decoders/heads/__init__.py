"""Heads: what else is read from the codes beside the picture."""
