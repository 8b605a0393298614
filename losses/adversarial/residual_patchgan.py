"""A PatchGAN of residual blocks (DualToken, arXiv 2503.14324): kernel 3, group norm before each convolution."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualPatchGAN(nn.Module):
    """Images [B, C, H, W] to logits [B, 1, h, w]; widths ndf x 1, 2, 4, 8, a halving each but the last."""

    def __init__(self, *, in_channels: int = 3, ndf: int = 64, n_layers: int = 3) -> None:
        super().__init__()
        if n_layers < 1:
            raise ValueError(f"n_layers={n_layers}: give 1 or more")
        if ndf < 32 or ndf % 32:
            raise ValueError(f"ndf={ndf}: give a multiple of 32, for 32 groups")
        widths = [ndf * min(2**level, 8) for level in range(n_layers + 1)]
        self.stem = nn.Conv2d(in_channels, ndf, 3, stride=2, padding=1)
        self.blocks = nn.Sequential()
        for level, (width, wider) in enumerate(pairwise(widths), start=1):
            self.blocks.append(ResidualBlock(width=width, wider=wider, stride=2 if level < n_layers else 1))
        self.head = nn.Conv2d(widths[-1], 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(F.leaky_relu(self.stem(images), 0.2)))


class ResidualBlock(nn.Module):
    """One convolution; the input comes to its size bilinearly and to its width by a 1x1 convolution."""

    def __init__(self, *, width: int, wider: int, stride: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.conv = nn.Conv2d(width, wider, 3, stride=stride, padding=1)
        self.widen = nn.Conv2d(width, wider, 1) if wider != width else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        change = self.conv(F.leaky_relu(self.norm(x), 0.2))
        if change.shape[2:] != x.shape[2:]:
            x = F.interpolate(x, change.shape[2:], mode="bilinear")
        return self.widen(x) + change
