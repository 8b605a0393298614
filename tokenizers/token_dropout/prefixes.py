"""Prefixes of images that are quantized already: which lengths to look at, and some images at chosen lengths."""

from collections.abc import Sequence
from dataclasses import replace

from ...common.types import Quantized, Stream
from .base import TokenDropout


def doubling_lengths(total: int) -> list[int]:
    """1, 2, 4 ... and all: even steps on a scale where a doubling counts the same everywhere."""
    return [2**i for i in range(total.bit_length()) if 2**i < total] + [total]


def prefixes(dropout: TokenDropout, quantized: Quantized, rows: Sequence[int], lengths: Sequence[int]) -> Quantized:
    """Image `rows[i]` with its first `lengths[i]` tokens; an image may be asked for several times."""
    rows = list(rows)

    codes = {
        name: Stream(s.x_BND[rows], s.grid, None if s.mask_BN is None else s.mask_BN[rows])
        for name, s in quantized.codes.items()
    }
    indices = {name: t[rows] for name, t in quantized.indices.items()}
    return dropout.keep(replace(quantized, codes=codes, indices=indices), list(lengths))
