"""Indices of several streams as one tensor, and back."""

from collections.abc import Sequence

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
    parts = dict(zip(lengths, indices.split(list(lengths.values()), dim=1), strict=True))
    for stream, part in parts.items():
        limit = max(max(segment.vocabulary) for segment in layout if segment.stream == stream)
        if part.numel() and int(part.max()) >= limit:
            where = "" if len(parts) == 1 else f" of the stream {stream!r}"
            raise UserError(f"indices{where} reach {int(part.max())}, but the codebook has {limit} entries")
    return parts
