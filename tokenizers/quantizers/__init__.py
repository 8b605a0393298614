"""Quantizers: vectors to indices and back. One mechanism per file."""
