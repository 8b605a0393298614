"""ViTamin (Chen et al., arXiv 2404.02132): convolutional stem and stages before a transformer, in timm's names."""

from collections.abc import Sequence
from typing import Literal

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from ...common.timm_weights import start_from
from ...common.types import Grid, height_width
from ...layers.transformer import init_transformer
from ...layers.vitamin import ConvTrunk, vitamin_blocks
from .base import Standardize, Tower


class ViTaminTower(Tower):
    """One token for 16 x 16 pixels.

    conv_widths, conv_depths: of the stages of MBConv blocks; the stem has the first width.
    positions: behind the convolutions: `grid`, learned for images of image_size (resampled for others); `constant`, one
        vector for all tokens, which UniTok's files hold: it does not train; `none`.
    activation: of the gated mlp: gelu as ViTamin was trained, gelu_tanh in UniTok.
    final_norm: ViTamin itself norms only the pooled token, so pretrained weights have none and it starts fresh.
    statistics, pretrained: as in ViTTower. drop_path: chance at the last block; earlier ones grow up to it.
    """

    def __init__(
        self,
        *,
        image_size: int | Sequence[int],
        width: int = 1024,
        depth: int = 31,
        num_heads: int = 16,
        mlp_ratio: float = 2.0,
        conv_widths: Sequence[int] = (160, 320),
        conv_depths: Sequence[int] = (2, 4),
        positions: Literal["grid", "constant", "none"] = "grid",
        activation: str = "gelu",
        final_norm: bool = True,
        statistics: str = "clip",
        drop_path: float = 0.0,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        if len(conv_widths) != len(conv_depths):
            raise ValueError(f"conv_depths={list(conv_depths)}: one number for each of {list(conv_widths)}")
        self.width = width
        self.factor = 2 ** (len(conv_widths) + 2)
        size = height_width(image_size)
        self.trained_grid = self.grid(size)
        self.standardize = Standardize(statistics)
        trunk = ConvTrunk(widths=tuple(conv_widths), depths=tuple(conv_depths), width=width)
        self.patch_embed = nn.ModuleDict({"backbone": trunk})
        self.pos_embed = None
        if positions != "none":
            tokens = self.trained_grid[0] * self.trained_grid[1] if positions == "grid" else 1
            self.pos_embed = nn.Parameter(torch.empty(1, tokens, width).normal_(std=0.02 if positions == "grid" else 0))
            self.pos_embed.requires_grad_(positions == "grid")
        self.blocks = vitamin_blocks(
            width=width,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            activation=activation,
            drop_path=drop_path,
        )
        self.norm = nn.LayerNorm(width, eps=1e-6) if final_norm else nn.Identity()
        init_transformer(self.blocks)
        start_from(self, pretrained, fresh=("norm.",), img_size=size)

    def grid(self, image_size: tuple[int, int]) -> Grid:
        height, width = image_size
        if height % self.factor or width % self.factor or min(height, width) < self.factor:
            raise ValueError(f"this tower shrinks by {self.factor}, so both sides must be multiples of {self.factor}")
        return height // self.factor, width // self.factor

    def forward(self, images: Tensor) -> Tensor:
        x_BChw = self.patch_embed["backbone"](self.standardize(images))
        x_BND, grid = x_BChw.flatten(2).transpose(1, 2), tuple(x_BChw.shape[-2:])
        if self.pos_embed is not None:
            positions = self.pos_embed
            if grid != self.trained_grid and positions.shape[1] > 1:
                sizes = {"new_size": list(grid), "old_size": list(self.trained_grid)}
                positions = resample_abs_pos_embed(positions, num_prefix_tokens=0, **sizes)
            x_BND = x_BND + positions
        return self.norm(self.blocks(x_BND))
