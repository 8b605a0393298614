"""timm's vision transformer for several sets of tokens in one sequence, each with positions on its own grid.

Attributes keep timm's names, so that its pretrained weights and the checkpoints built on it load without renaming.
"""

from functools import partial
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ..common.types import Grid
from .transformer import init_transformer

NORM: Any = partial(nn.LayerNorm, eps=1e-6)


class TimmViT(nn.Module):
    """Class token, positions, blocks and last norm of a timm ViT; embedding the patches is left to its owner.

    grid: patches of the training image, for which positions are stored. layer_scale: DINOv2's, 1e-5 in timm.
    drop_path: chance that the last block's branches are skipped in training; earlier blocks' grows up to it.
    """

    def __init__(
        self, *, width: int, depth: int, num_heads: int, grid: Grid, layer_scale: float | None, drop_path: float
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"num_heads={num_heads}: width={width} cannot be split into that many heads")
        self.grid = grid
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + grid[0] * grid[1], width))
        rates = [drop_path * number / max(depth - 1, 1) for number in range(depth)]
        block = partial(Block, width, num_heads, qkv_bias=True, init_values=layer_scale, norm_layer=NORM)
        self.blocks = nn.Sequential(*(block(drop_path=rate) for rate in rates))
        self.norm = NORM(width)
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.normal_(self.pos_embed, std=0.02)
        init_transformer(self)

    def placed(self, x_BND: Tensor, grid: Grid, *, with_class: bool) -> Tensor:
        """The tokens with positions of `grid`, resampled from the stored ones; the class token in front if asked."""
        positions = resample_abs_pos_embed(self.pos_embed, new_size=list(grid), old_size=list(self.grid))
        x_BND = x_BND + positions[:, 1:]
        if not with_class:
            return x_BND
        class_token = (self.cls_token + positions[:, :1]).expand(len(x_BND), -1, -1)
        return torch.cat([class_token, x_BND], dim=1)

    def forward(self, x_BND: Tensor) -> Tensor:
        return self.norm(self.blocks(x_BND))
