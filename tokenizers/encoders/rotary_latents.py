"""Instella-T2I's encoder: learned latents before the patches, rotary positions, a grid that is halved midway."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...common.types import Latents, Stream, height_width
from ...layers.llama_block import HalveGrid, RotaryBlock, ThreeAxes, check_axes, check_resizing
from ...layers.patches import grid_of
from ...layers.resnet import to_grid, to_tokens
from .base import FixedSizeEncoder


class RotaryLatentEncoder(FixedSizeEncoder):
    """Wang et al., arXiv 2506.21022: `num_tokens` learned latents, then the patches, all seeing all.

    dim: width handed to the quantizer; null: `width`.
    halve_after: numbers of blocks after which the grid of patches is halved.
    axes: channels of a head that turn with a latent's number, a patch's row and its column.
    span: pixels that any image's coordinates are stretched over, 1024 as published; null: not stretched.
    Nothing learned depends on the size, so that weights load for another data.image_size.
    """

    def __init__(
        self,
        *,
        dim: int | None = None,
        num_tokens: int = 128,
        input_size: Sequence[int] = (1024, 1024),
        in_channels: int = 3,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        halve_after: Sequence[int] = (7,),
        axes: Sequence[int] = (8, 28, 28),
        span: int | None = 1024,
    ) -> None:
        super().__init__()
        check_axes(axes, width, num_heads)
        self.dim = dim or width
        self.num_tokens, self.patch_size = num_tokens, patch_size
        self.input_size = height_width(input_size)
        self.halve_after = check_resizing(halve_after, depth, key="halve_after")
        grid_of(self.input_size, patch_size * 2 ** len(self.halve_after))
        self.span = None if span is None else span // patch_size
        self.patches = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        self.latents = nn.Parameter(0.02 * torch.randn(num_tokens, width))
        self.positions = ThreeAxes(axes=axes)
        self.blocks = nn.ModuleList(RotaryBlock(width=width, num_heads=num_heads) for _ in range(depth))
        self.halvings = nn.ModuleList(HalveGrid(width=width) for _ in self.halve_after)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.project = nn.Linear(width, self.dim)

    def forward(self, images: Tensor) -> Latents:
        x_BCHW = self.patches(images)
        grid, span, halvings = (x_BCHW.shape[2], x_BCHW.shape[3]), self.span, iter(self.halvings)
        x_BND = torch.cat([self.latents.expand(len(images), -1, -1).to(x_BCHW.dtype), to_tokens(x_BCHW)], dim=1)
        rotation = self.positions(self.num_tokens, grid, span=span, device=images.device)
        for number, block in enumerate(self.blocks):
            x_BND = block(x_BND, rotation)
            if number in self.halve_after:
                latents, patches = x_BND.tensor_split([self.num_tokens], dim=1)
                x_BND = torch.cat([latents, to_tokens(next(halvings)(to_grid(patches, grid)))], dim=1)
                grid, span = (grid[0] // 2, grid[1] // 2), None if span is None else span // 2
                rotation = self.positions(self.num_tokens, grid, span=span, device=images.device)
        return {"main": Stream(self.project(self.norm(x_BND[:, : self.num_tokens])))}
