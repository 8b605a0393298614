"""The decoder of MaskGIT's VQGAN (Chang et al., arXiv 2202.04200)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..common.types import Latents
from ..layers.maskgit import maskgit_blocks
from ..layers.resnet import Upsample, group_norm, level_widths
from .base import Decoder


class CNNMaskgitDecoder(Decoder):
    """Mirror of CNNMaskgitEncoder, with as many residual blocks per level; levels run from the last to the first.

    The published network's output is in [0, 1]; this one's in [-1, 1].
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
        dropout: float = 0.0,
        out_channels: int = 3,
    ) -> None:
        super().__init__()
        self.dim = dim
        widths = level_widths(channels, channel_multipliers)

        width = widths[-1]
        self.conv_in = nn.Conv2d(dim, width, 3, padding=1)
        self.middle = nn.Sequential(*maskgit_blocks(blocks_per_level, width, width, dropout))
        self.levels = nn.Sequential()
        for level in reversed(range(len(widths))):
            blocks = nn.Sequential(*maskgit_blocks(blocks_per_level, width, widths[level], dropout))
            width = widths[level]
            if level > 0:
                blocks.append(Upsample(channels=width))
            self.levels.append(blocks)
        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, codes: Latents) -> Tensor:
        x = self.levels(self.middle(self.conv_in(codes["main"].as_grid())))
        return 2 * self.conv_out(F.silu(self.norm_out(x))) - 1
