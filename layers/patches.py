"""Images to sequences of patches and back, and fixed sine-cosine positions of a grid."""

import torch
from torch import Tensor

from ..common.types import Grid


def grid_of(size: tuple[int, int], patch_size: int) -> Grid:
    """Patches down and across; ValueError for sizes that do not divide."""
    height, width = size
    if height % patch_size or width % patch_size or min(height, width) < patch_size:
        raise ValueError(f"patch_size={patch_size}: both sides of an input of {list(size)} must be multiples of it")
    return height // patch_size, width // patch_size


def to_patches(x_BCHW: Tensor, patch_size: int) -> Tensor:
    """[B, h w, p p C]: within a patch rows, then columns, then channels."""
    cells = x_BCHW.unflatten(3, (-1, patch_size)).unflatten(2, (-1, patch_size))  # [B, C, h, p, w, p]
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def from_patches(x_BNP: Tensor, patch_size: int, grid: Grid) -> Tensor:
    cells = x_BNP.unflatten(2, (patch_size, patch_size, -1)).unflatten(1, grid)  # [B, h, w, p, p, C]
    return cells.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def sincos_grid(grid: Grid, width: int, *, temperature: float = 10000.0) -> Tensor:
    """[h w, width]: sine and cosine of the row, then of the column (MoCo v3, arXiv 2104.02057, section 3)."""
    if width % 4:
        raise ValueError(f"width={width}: sine and cosine of two axes need a multiple of 4")
    frequencies = temperature ** -(torch.arange(width // 4, dtype=torch.float32) / (width // 4))
    rows, columns = (torch.arange(side, dtype=torch.float32)[:, None] * frequencies for side in grid)
    rows, columns = (torch.cat([angle.sin(), angle.cos()], dim=1) for angle in (rows, columns))
    return torch.cat([rows[:, None].expand(-1, grid[1], -1), columns[None].expand(grid[0], -1, -1)], dim=2).flatten(
        0, 1
    )
