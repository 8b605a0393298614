"""The residual convolution blocks of VQGAN (Esser et al., arXiv 2012.09841), which most grid tokenizers build on."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups and eps 1e-6: released weights depend on both. Narrow layers, which no release has, get groups of 4."""
    return nn.GroupNorm(32 if channels % 32 == 0 else channels // 4, channels, eps=1e-6)


class ResBlock(nn.Module):
    """norm, SiLU, 3x3 convolution, twice; a 1x1 convolution on the skip where the width changes."""

    def __init__(self, *, channels_in: int, channels_out: int, dropout: float = 0.0, bias: bool = True) -> None:
        super().__init__()
        same_width = channels_in == channels_out
        self.norm1: nn.Module = group_norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=bias)
        self.norm2: nn.Module = group_norm(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=bias)
        self.skip = nn.Identity() if same_width else nn.Conv2d(channels_in, channels_out, 1, bias=bias)

    def forward(self, x_BCHW: Tensor, *read_by_norms: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x_BCHW, *read_by_norms)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h, *read_by_norms))))
        return self.skip(x_BCHW) + h


class SpatialAttention(nn.Module):
    """One head over all positions, q, k, v as 1x1 convolutions."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.norm: nn.Module = group_norm(channels)
        self.q, self.k, self.v, self.project = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x_BCHW: Tensor, *read_by_norm: Tensor) -> Tensor:
        normed_BCHW = self.norm(x_BCHW, *read_by_norm)
        q, k, v = (to_tokens(layer(normed_BCHW)) for layer in (self.q, self.k, self.v))
        attended_BND = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x_BCHW + self.project(to_grid(attended_BND, x_BCHW.shape[-2:]))


class Downsample(nn.Module):
    """Stride-2 convolution, padded on the right and at the bottom only, as the published weights expect."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.conv(F.pad(x_BCHW, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest neighbour times two, then a convolution."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.conv(F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest"))


def to_tokens(x_BCHW: Tensor) -> Tensor:
    """[B, C, H, W] to [B, H*W, C]: a free view when the memory is channels_last."""
    return x_BCHW.flatten(2).transpose(1, 2)


def to_grid(x_BND: Tensor, grid: tuple[int, int] | torch.Size) -> Tensor:
    """[B, h*w, D] to [B, D, h, w]; comes out channels_last without a copy."""
    return x_BND.transpose(1, 2).unflatten(2, tuple(grid))


def level_widths(channels: int, multipliers: Sequence[int]) -> list[int]:
    widths = [channels * m for m in multipliers]
    for width in [channels, *widths]:
        if width % 4:
            raise ValueError(f"channels={channels} times {list(multipliers)} must be multiples of 4 (group norm)")
    return widths


def check_levels(levels: Sequence[int], count: int) -> set[int]:
    for level in levels:
        if not -count <= level < count:
            raise ValueError(f"attention_levels={list(levels)}: there are levels 0 to {count - 1} (or -{count} to -1)")
    return {level % count for level in levels}


def middle_blocks(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        ResBlock(channels_in=width, channels_out=width, dropout=dropout),
        SpatialAttention(channels=width),
        ResBlock(channels_in=width, channels_out=width, dropout=dropout),
    )
