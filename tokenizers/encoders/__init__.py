"""Encoders: images to streams of vectors. One mechanism a file."""
