"""The encoder of MaskGIT's VQGAN (Chang et al., arXiv 2202.04200), whose codes TiTok's first stage predicts."""

from collections.abc import Sequence

from torch import Tensor, nn

from ...common.types import Latents
from ...layers.maskgit import maskgit_blocks
from ...layers.resnet import group_norm, level_widths
from .grid import GridEncoder


class CNNMaskgitEncoder(GridEncoder):
    """Residual blocks, a 2x2 mean after every level but the last, no attention; one vector per cell.

    Images come in [-1, 1] like everywhere; the published network reads [0, 1], which is brought about here.
    """

    def __init__(
        self,
        *,
        dim: int = 256,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks_per_level: int = 2,
        dropout: float = 0.0,
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
            blocks = nn.Sequential(*maskgit_blocks(blocks_per_level, width, next_width, dropout))
            width = next_width
            if level < len(widths) - 1:
                blocks.append(nn.AvgPool2d(2))
            self.levels.append(blocks)
        self.middle = nn.Sequential(*maskgit_blocks(blocks_per_level, width, width, dropout))
        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, dim, 1)

    def forward(self, images: Tensor) -> Latents:
        return super().forward((images + 1) / 2)
