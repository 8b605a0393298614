"""The convolutional grid encoder of VQGAN and LlamaGen ("B1")."""

from collections.abc import Sequence

from torch import Tensor, nn

from ...common.types import Latents, Stream
from ...layers.resnet import (
    Downsample,
    ResBlock,
    SpatialAttention,
    check_levels,
    group_norm,
    level_widths,
    middle_blocks,
    to_tokens,
)
from .grid import GridEncoder


class CNNEncoder(GridEncoder):
    """Residual blocks, halving the side after every level but the last; one vector per cell.

    dim: width handed to the quantizer, through a 1x1 convolution (`quant_conv` in the published code).
    channel_multipliers: one per level, times `channels`; five levels shrink the side by 16.
    attention_levels: levels whose residual blocks are each followed by attention; -1 is the last level.
    """

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
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.dim = dim
        widths = level_widths(channels, channel_multipliers)
        with_attention = check_levels(attention_levels, len(widths))
        self.factor = 2 ** (len(widths) - 1)

        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.levels = nn.ModuleList()
        width = channels
        for level, next_width in enumerate(widths):
            blocks = nn.Sequential()
            for _ in range(blocks_per_level):
                blocks.append(ResBlock(channels_in=width, channels_out=next_width, dropout=dropout))
                width = next_width
                if level in with_attention:
                    blocks.append(SpatialAttention(channels=width))
            if level < len(widths) - 1:
                blocks.append(Downsample(channels=width))
            self.levels.append(blocks)
        self.middle = middle_blocks(width, dropout)
        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, z_channels, 3, padding=1)
        self.project = nn.Conv2d(z_channels, dim, 1)

    def forward(self, images: Tensor) -> Latents:
        z_BDhw = self.project(self.features(images))
        return {"main": Stream(to_tokens(z_BDhw), grid=(z_BDhw.shape[2], z_BDhw.shape[3]))}
