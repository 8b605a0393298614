"""ViT head that predicts a teacher's features: VQ-KD's decoder (BEiT v2, arXiv 2208.06366)."""

from collections.abc import Mapping, Sequence

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from ...common.types import Latents, height_width
from ...layers.transformer import Block, Mlp, init_transformer
from .base import StreamHead


class FeatureViTHead(StreamHead):
    """Codes [B, N, dim] to features [B, N, out_dim]: class token, positions, blocks, norm, then linear, tanh, linear.

    grid: of the training images' codes, for which positions are stored; other grids get them resampled.
    """

    def __init__(
        self,
        *,
        dim: int | Mapping[str, int],
        out_dim: int = 768,
        stream: str = "semantic",
        grid: int | Sequence[int] = 16,
        width: int = 768,
        depth: int = 3,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
    ) -> None:
        super().__init__(dim=dim, out_dim=out_dim, stream=stream)
        self.grid = height_width(grid)
        self.embed = nn.Linear(self.code_dim, width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=0.02))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + self.grid[0] * self.grid[1], width).normal_(std=0.02))
        hidden = int(width * mlp_ratio)
        self.blocks = nn.ModuleList(
            Block(width=width, num_heads=num_heads, mlp=Mlp(width=width, hidden=hidden), key_bias=False)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.project = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, out_dim))
        init_transformer(self)

    def forward(self, codes: Latents) -> Tensor:
        stream = codes[self.stream]
        x_BND = self.embed(stream.x_BND)
        x_BND = torch.cat([self.cls_token.expand(len(x_BND), -1, -1), x_BND], dim=1)
        positions = self.pos_embed
        if stream.grid is not None and stream.grid != self.grid:
            positions = resample_abs_pos_embed(positions, new_size=list(stream.grid), old_size=list(self.grid))
        x_BND = x_BND + positions
        for block in self.blocks:
            x_BND = block(x_BND)
        return self.project(self.norm(x_BND[:, 1:]))
