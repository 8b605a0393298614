"""Indices of several streams as one tensor, and back."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from ..common.errors import UserError
from ..common.types import IndexSegment


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
    return dict(zip(lengths, indices.split(list(lengths.values()), dim=1), strict=True))


class NoSuchToken(UserError):
    """Raised before the decoder looks it up, which ends in a traceback or, on CUDA, in a broken device."""


def check_entries(parts: Mapping[str, Tensor], layout: Sequence[IndexSegment]) -> None:
    """Every index against the codebook of its own segment and column."""
    at = dict.fromkeys(parts, 0)
    for segment in layout:
        stream, start = segment.stream, at[segment.stream]
        block = parts[stream][:, start : start + segment.length]
        at[stream] += segment.length
        most = block.amax(dim=(0, 1)).tolist() if block.numel() else []
        for largest, entries in zip(most, segment.vocabulary, strict=False):
            if largest >= entries:
                where = "" if len(parts) == 1 else f" of the stream {stream!r}"
                raise NoSuchToken(f"indices{where} reach {largest}, but the codebook has {entries} entries")
