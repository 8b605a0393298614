"""Pieces of several quantizers."""
