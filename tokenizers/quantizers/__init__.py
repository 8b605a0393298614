"""Quantizers: vectors to indices and back. One mechanism a file."""
