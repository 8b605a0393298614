"""The grids of a residual pyramid (VAR, arXiv 2404.02905): areas are pooled down, codes are scaled up."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ....common.types import Grid, IndexSegment


class Pyramid:
    """scales: sides of the grids; on a full grid of another size than the last, all are scaled. None: one grid."""

    def __init__(self, scales: Sequence[int] | None) -> None:
        if scales is not None and (not scales or min(scales) < 1 or list(scales) != sorted(scales)):
            raise ValueError(f"scales={list(scales)}: sides of grids, none smaller than the one before, e.g. [1, 2, 4]")
        self.scales = None if scales is None else tuple(scales)

    def grids(self, full: Grid) -> list[Grid]:
        if self.scales is None:
            return [full]
        (h, w), last = full, self.scales[-1]
        return [(max(1, round(h * side / last)), max(1, round(w * side / last))) for side in self.scales]

    def layout(self, full: Grid, vocabulary: tuple[int, ...]) -> tuple[IndexSegment, ...]:
        return tuple(IndexSegment("main", h * w, vocabulary, s, (h, w)) for s, (h, w) in enumerate(self.grids(full)))

    def split(self, indices_BM: Tensor, full: Grid) -> list[tuple[Tensor, Grid]]:
        """Indices of each scale, and its grid."""
        grids = self.grids(full)
        return list(zip(indices_BM.split([h * w for h, w in grids], dim=1), grids, strict=True))


def pooled(x_BDhw: Tensor, grid: Grid) -> Tensor:
    """[B, M, D], a vector for each cell of `grid`."""
    small = x_BDhw if x_BDhw.shape[-2:] == grid else F.interpolate(x_BDhw, grid, mode="area")
    return small.permute(0, 2, 3, 1).flatten(1, 2)


def spread(codes_BMD: Tensor, grid: Grid, full: Grid) -> Tensor:
    """[B, D, H, W]: one scale's codes on the full grid."""
    codes = codes_BMD.transpose(1, 2).unflatten(2, grid)
    return codes if grid == full else F.interpolate(codes, full, mode="bicubic")
