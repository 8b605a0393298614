"""Layers that several encoders and decoders share. One mechanism a file."""
