"""Two-dimensional rotary positions (RoFormer, arXiv 2104.09864, on grids as in Qwen2-VL, arXiv 2409.12191)."""

import torch
from torch import Tensor

from ..common.types import Grid

Rotation = tuple[Tensor, Tensor]  # cosines and sines, [N, head_dim]


def grid_rotation(grid: Grid, head_dim: int, *, device: torch.device, merge: int = 1) -> Rotation:
    """(cos, sin), [h * w, head_dim]: a quarter of the channels turns by the row, a quarter by the column, twice.

    merge: tokens come in blocks of merge x merge cells, block by block, instead of row by row.
    """
    if head_dim % 4:
        raise ValueError(f"rotary positions need heads whose width divides by 4, not {head_dim}")
    h, w = grid
    rows = torch.arange(h, device=device)[:, None].expand(h, w)
    columns = torch.arange(w, device=device)[None].expand(h, w)
    order = blockwise(torch.stack([rows, columns], dim=-1)[None], merge)[0]
    frequencies = 10000.0 ** -(torch.arange(0, head_dim // 2, 2, device=device).float() / (head_dim // 2))
    angles = (order[:, :, None].float() * frequencies).flatten(1)  # [N, head_dim / 2], rows then columns
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def blockwise(x_BhwD: Tensor, merge: int) -> Tensor:
    """[B, h, w, D] to [B, h * w, D], blocks of merge x merge cells one after the other."""
    x = x_BhwD.unflatten(2, (-1, merge)).unflatten(1, (-1, merge))
    return x.permute(0, 1, 3, 2, 4, 5).flatten(1, 4)


def rotated(x_BHND: Tensor, rotation: Rotation) -> Tensor:
    """In fp32; channel d turns with d + head_dim / 2. So in Instella-T2I too, whose angles are laid for neighbours."""
    cosines, sines = rotation
    first, second = x_BHND.float().chunk(2, dim=-1)
    return (x_BHND.float() * cosines + torch.cat([-second, first], dim=-1) * sines).to(x_BHND.dtype)
