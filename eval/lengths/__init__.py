"""Metrics over the number of tokens, beside image codecs at equal bytes."""
