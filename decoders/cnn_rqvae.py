"""RQ-VAE's convolutional decoder behind an attention projection: DualToken's pixels (arXiv 2503.14324)."""

from collections.abc import Sequence
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from ..common.types import Latents, height_width
from ..layers.attention_projection import AttentionProjection
from ..layers.resnet import ResBlock
from .cnn import CNNDecoder


class RQVAEDecoder(CNNDecoder):
    """Codes to `width` by attention, onto a grid of its own, through a residual block into the CNN.

    grid: side or height and width that codes are brought to by bilinear interpolation, so that the decoded
        image has the input's size (27 x 27 patches of 14 are decoded from 24 x 24 cells of 16); null: the codes' own.
    causal: of the projection. projection_heads: the ratio of the widths by default.
    """

    def __init__(
        self,
        *,
        dim: int = 32,
        width: int = 1152,
        grid: int | Sequence[int] | None = None,
        causal: bool = True,
        projection_heads: int | None = None,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 1, 4, 4, 8),
        blocks_per_level: int = 2,
        attention_levels: Sequence[int] = (-1,),
        z_channels: int = 1024,
        dropout: float = 0.0,
        out_channels: int = 3,
    ) -> None:
        super().__init__(
            dim=dim,
            channels=channels,
            channel_multipliers=channel_multipliers,
            blocks_per_level=blocks_per_level,
            attention_levels=attention_levels,
            z_channels=z_channels,
            dropout=dropout,
            out_channels=out_channels,
        )
        self.grid = None if grid is None else height_width(grid)
        self.expand = AttentionProjection(dim_in=dim, dim_out=width, num_heads=projection_heads, causal=causal)
        self.project = block = ResBlock(channels_in=width, channels_out=z_channels)
        block.conv1 = nn.Conv2d(width, z_channels, 1)

    def forward(self, codes: Latents) -> Tensor:
        stream = codes["main"]
        x_BDhw = replace(stream, x_BND=self.expand(stream.x_BND)).as_grid()
        if self.grid is not None and self.grid != stream.grid:
            x_BDhw = F.interpolate(x_BDhw, self.grid, mode="bilinear")
        return self.paint(self.project(x_BDhw))
