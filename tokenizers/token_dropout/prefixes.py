"""Prefixes of pictures that are quantized already: which lengths to look at, and some pictures at chosen lengths."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from ...common.types import Quantized, Stream
from .base import TokenDropout


def doubling_lengths(total: int) -> list[int]:
    """1, 2, 4 ... and all: even steps on a scale where a doubling counts the same everywhere."""
    return [2**i for i in range(total.bit_length()) if 2**i < total] + [total]


def prefixes(dropout: TokenDropout, quantized: Quantized, rows: Sequence[int], lengths: Sequence[int]) -> Quantized:
    """Picture `rows[i]` with its first `lengths[i]` tokens; a picture may be asked for several times."""
    rows = list(rows)

    def taken(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[rows]

    codes = {name: Stream(taken(s.x_BND), s.grid, taken(s.mask_BN)) for name, s in quantized.codes.items()}
    indices = {name: taken(t) for name, t in quantized.indices.items()}
    return dropout.keep(replace(quantized, codes=codes, indices=indices), list(lengths))
