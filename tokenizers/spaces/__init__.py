"""Spaces: what encoder and decoder work in when it is not pixels."""
