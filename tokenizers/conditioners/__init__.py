"""Conditioners: captions to what a decoder reads in addition to codes."""
