"""Encoders: images to streams of vectors. One mechanism per file."""
