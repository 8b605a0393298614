"""What Open-MAGVIT2 (Luo et al., arXiv 2409.04410) adds to the residual blocks of VQGAN."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from .resnet import ResBlock


class AdaptiveGroupNorm(nn.Module):
    """Group norm whose scale and shift are computed from the deviation and the mean of the codes over the image.

    They are statistics of all positions, so an image decoded in tiles gets other colours than in one piece.
    """

    def __init__(self, *, channels: int, style_channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6, affine=False)
        self.scale = nn.Linear(style_channels, channels)
        self.shift = nn.Linear(style_channels, channels)

    def forward(self, x_BCHW: Tensor, style_BDhw: Tensor) -> Tensor:
        positions = style_BDhw.flatten(2)
        # The published spread is the unbiased one, which a single position does not have.
        variance = positions.var(dim=2, correction=min(1, positions.shape[2] - 1))
        scale, shift = self.scale((variance + 1e-6).sqrt()), self.shift(positions.mean(dim=2))
        return self.norm(x_BCHW) * scale[:, :, None, None] + shift[:, :, None, None]


class DepthToSpaceUpsample(nn.Module):
    """A convolution to four times the channels, each quarter one corner of the 2x2 pixels that a cell becomes."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return depth_to_space(self.conv(x_BCHW))


def depth_to_space(x_BCHW: Tensor) -> Tensor:
    """[B, 4C, h, w] to [B, C, 2h, 2w]; the corner is the outer channel index, in pixel_shuffle it is the inner one."""
    if x_BCHW.is_contiguous(memory_format=torch.channels_last):  # stays so, in one copy of whole channel vectors
        corners = x_BCHW.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1)).transpose(2, 3)  # [B, h, 2, w, 2, C]
        return corners.flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)
    return x_BCHW.unflatten(1, (2, 2, -1)).permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)


def plain_blocks(count: int, channels_in: int, channels_out: int) -> list[ResBlock]:
    """Residual blocks without biases; the first changes the width."""
    widths = [channels_in] + [channels_out] * count
    return [ResBlock(channels_in=a, channels_out=b, bias=False) for a, b in pairwise(widths)]
