"""The convolutional grid decoder of VQGAN and LlamaGen ("B1")."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..common.types import Latents
from ..layers.resnet import Upsample, check_levels, group_norm, level_widths, middle_blocks, residual_blocks
from .base import Decoder


class CNNDecoder(Decoder):
    """Mirror of CNNEncoder, with one more residual block per level.

    Levels are numbered like the encoder's (0 is the full resolution), and run from the last to the first.
    `dim` enters through a 1x1 convolution (`post_quant_conv` in the published code).
    """

    needs_grid = True
    last_layer_name = "conv_out.weight"

    def __init__(
        self,
        *,
        dim: int = 256,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks_per_level: int = 2,
        attention_levels: Sequence[int] = (-1,),
        z_channels: int = 256,
        dropout: float = 0.0,
        out_channels: int = 3,
    ) -> None:
        super().__init__()
        self.dim = dim
        widths = level_widths(channels, channel_multipliers)
        with_attention = check_levels(attention_levels, len(widths))

        self.project: nn.Module = nn.Conv2d(dim, z_channels, 1)
        width = widths[-1]
        self.conv_in = nn.Conv2d(z_channels, width, 3, padding=1)
        self.middle = middle_blocks(width, dropout)
        self.levels = nn.Sequential()
        for level in reversed(range(len(widths))):
            attention = level in with_attention
            blocks = residual_blocks(blocks_per_level + 1, width, widths[level], dropout=dropout, attention=attention)
            width = widths[level]
            if level > 0:
                blocks.append(Upsample(channels=width))
            self.levels.append(blocks)
        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, codes: Latents) -> Tensor:
        return self.paint(self.project(codes["main"].as_grid()))

    def paint(self, z_BChw: Tensor) -> Tensor:
        """From `z_channels` channels on the codes' grid."""
        x = self.levels(self.middle(self.conv_in(z_BChw)))
        return self.conv_out(F.silu(self.norm_out(x)))
