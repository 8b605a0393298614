"""Indices of several streams as one tensor, and back."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..configs.errors import UserError
from .types import IndexSegment


def height_width(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def split_by_stream(
    indices: Tensor, layout: tuple[IndexSegment, ...], image_size: tuple[int, int]
) -> dict[str, Tensor]:
    """[B, M, K] to {stream: [B, M_stream, K]}, in the order the layout declares."""
    lengths: dict[str, int] = {}
    for segment in layout:
        lengths[segment.stream] = lengths.get(segment.stream, 0) + segment.length
    total, codebooks = sum(lengths.values()), len(layout[0].vocabulary)
    if indices.ndim != 3 or indices.shape[1] != total or indices.shape[2] != codebooks:
        raise UserError(
            f"indices have shape {list(indices.shape)}; images of {image_size[0]}x{image_size[1]} have "
            f"[batch, {total}, {codebooks}] (pass image_size= for another size)"
        )
    limits = torch.tensor([max(s.vocabulary) for s in layout])
    if indices.numel() and int(indices.max()) >= int(limits.max()):
        raise UserError(f"indices reach {int(indices.max())}, but the codebook has {int(limits.max())} entries")
    return dict(zip(lengths, indices.split(list(lengths.values()), dim=1), strict=True))
