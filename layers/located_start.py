"""Sine-cosine positions and matched q and k at the start: a small ViT with latent tokens then trains in minutes.

TiTok's own start (random positions, N(0, 0.02) weights) leaves a narrow model decoding the image's mean colour for
thousands of updates: attention is uniform, every latent says the same, and neither side has a reason to change.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ..common.types import Grid

HIGHEST = 8  # half-waves across the image of the fastest sine


def token_grid(num_tokens: int) -> Grid:
    """Rows and columns, as square as the number allows; a prime number of tokens stands in one row."""
    rows = next(n for n in range(math.isqrt(num_tokens), 0, -1) if num_tokens % n == 0)
    return rows, num_tokens // rows


def sincos_places(grid: Grid, width: int) -> Tensor:
    """[h w, width]: sines and cosines of the centres of a grid of cells over the unit square, row by row."""
    if width % 4:
        raise ValueError(f"width={width}: a located start needs a multiple of 4")
    y, x = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in grid), indexing="ij")
    frequencies = torch.linspace(0, math.log(HIGHEST), width // 4).exp() * math.pi
    return torch.cat([f(axis.flatten()[:, None] * frequencies) for axis in (y, x) for f in (torch.sin, torch.cos)], 1)


@torch.no_grad()
def start_located(module: nn.Module, attentions: Iterable[nn.Linear]) -> None:
    """Linear layers keep the size of what they read; q and k are one matrix at first, so that like places match.

    attentions: the layers that make q, k and v in this order.
    """
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(part.weight, std=part.weight[0].numel() ** -0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for qkv in attentions:
        width = qkv.in_features
        qkv.weight[width : 2 * width] = qkv.weight[:width]
