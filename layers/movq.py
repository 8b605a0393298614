"""MoVQ's spatially conditioned norm (Zheng et al., arXiv 2209.09002) and DC-AE's resampling with a shortcut.

DC-AE: Chen et al., arXiv 2410.10733, section 3.1.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from .resnet import ResBlock, SpatialAttention, group_norm


class SpatialNorm(nn.Module):
    """Group norm, then a scale and shift per position computed from the codes (eq. 4)."""

    def __init__(self, *, channels: int, code_dim: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.scale = nn.Conv2d(code_dim, channels, 1)
        self.shift = nn.Conv2d(code_dim, channels, 1)

    def forward(self, x_BCHW: Tensor, codes_BDhw: Tensor) -> Tensor:
        codes = F.interpolate(codes_BDhw, x_BCHW.shape[-2:], mode="nearest")
        return self.norm(x_BCHW) * self.scale(codes) + self.shift(codes)


class SpatialResBlock(ResBlock):
    """A residual block whose norms read the codes: forward(x_BCHW, codes_BDhw)."""

    def __init__(self, *, channels_in: int, channels_out: int, code_dim: int, dropout: float = 0.0) -> None:
        super().__init__(channels_in=channels_in, channels_out=channels_out, dropout=dropout)
        self.norm1 = SpatialNorm(channels=channels_in, code_dim=code_dim)
        self.norm2 = SpatialNorm(channels=channels_out, code_dim=code_dim)


class SpatialNormAttention(SpatialAttention):
    """One head over all places behind a norm that reads the codes: forward(x_BCHW, codes_BDhw)."""

    def __init__(self, *, channels: int, code_dim: int) -> None:
        super().__init__(channels=channels)
        self.norm = SpatialNorm(channels=channels, code_dim=code_dim)


class UnshuffleDown(nn.Module):
    """Half the side: convolution to a quarter of the channels, 2x2 cells stacked; plus the mean of stacked inputs."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels // 4, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shortcut = F.pixel_unshuffle(x_BCHW, 2).unflatten(1, (x_BCHW.shape[1], 4)).mean(dim=2)
        return F.pixel_unshuffle(self.conv(x_BCHW), 2) + shortcut


class ShuffleUp(nn.Module):
    """Twice the side: convolution to four times the channels, spread over 2x2 cells; plus every input four times."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        shortcut = F.pixel_shuffle(x_BCHW.repeat_interleave(4, dim=1), 2)
        return F.pixel_shuffle(self.conv(x_BCHW), 2) + shortcut
