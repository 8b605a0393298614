"""The convolutional grid encoder of Open-MAGVIT2 and WeTok ("B2"): no attention, no projection."""

from collections.abc import Sequence

from torch import nn

from ...layers.magvit2 import plain_blocks
from ...layers.resnet import group_norm, level_widths
from .grid import GridEncoder


class CNNMagvit2Encoder(GridEncoder):
    """Residual blocks without biases, halving the side after every level but the last; one vector per cell.

    dim: width handed to the quantizer, straight from the last convolution; for binary codes the number of bits.
    channel_multipliers: one per level, times `channels`; five levels shrink the side by 16.
    `middle` works at the lowest resolution; it is where a hybrid (UniWeTok) has its transformer.
    """

    def __init__(
        self,
        *,
        dim: int = 18,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks_per_level: int = 4,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.dim = dim
        widths = level_widths(channels, channel_multipliers)
        self.factor = 2 ** (len(widths) - 1)

        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.levels = nn.ModuleList()
        width = channels
        for level, next_width in enumerate(widths):
            blocks = nn.Sequential(*plain_blocks(blocks_per_level, width, next_width))
            width = next_width
            if level < len(widths) - 1:
                # Padded on all sides, unlike VQGAN's: the published weights of either tell them apart.
                blocks.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
            self.levels.append(blocks)
        self.middle = nn.Sequential(*plain_blocks(blocks_per_level, width, width))
        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, dim, 1)
