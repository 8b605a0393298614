"""Instella-T2I's decoder: codes and mask tokens with rotary positions, on a grid that grows between blocks."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.types import Latents
from ..layers.llama_block import RotaryBlock, ThreeAxes, check_axes, check_resizing
from ..layers.masking import seen_tokens
from ..layers.movq import ShuffleUp
from ..layers.patches import from_patches, grid_of
from ..layers.resnet import to_grid, to_tokens
from .base import Decoder


class RotaryLatentDecoder(Decoder):
    """Mirror of RotaryLatentEncoder (arXiv 2506.21022): one mask vector per cell of the small grid becomes the image.

    double_after: numbers of blocks after which the grid is doubled. The other settings are the encoder's.
    """

    any_length = True
    last_layer_name = "to_pixels.weight"

    def __init__(
        self,
        *,
        dim: int = 768,
        input_size: Sequence[int] = (1024, 1024),
        out_channels: int = 3,
        patch_size: int = 16,
        width: int = 1024,
        depth: int = 16,
        num_heads: int = 16,
        double_after: Sequence[int] = (7,),
        axes: Sequence[int] = (8, 28, 28),
        span: int | None = 1024,
    ) -> None:
        super().__init__()
        check_axes(axes, width, num_heads)
        self.dim, self.patch_size = dim, patch_size
        self.double_after = check_resizing(double_after, depth, key="double_after")
        self.shrunk = 2 ** len(self.double_after)
        self.grid = grid_of((int(input_size[0]), int(input_size[1])), patch_size)
        self.span = None if span is None else span // patch_size
        self.embed = nn.Sequential(nn.RMSNorm(dim, eps=1e-6), nn.Linear(dim, width))
        self.mask_vector = nn.Parameter(0.02 * torch.randn(width))
        self.positions = ThreeAxes(axes=axes)
        self.blocks = nn.ModuleList(RotaryBlock(width=width, num_heads=num_heads) for _ in range(depth))
        self.doublings = nn.ModuleList(ShuffleUp(channels=width) for _ in self.double_after)
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.to_pixels = nn.Linear(width, out_channels * patch_size**2)

    def forward(self, codes: Latents) -> Tensor:
        seen_BND, shown_BN = seen_tokens(codes["main"])
        codes_BND = self.embed(seen_BND)
        batch, num_tokens = codes_BND.shape[:2]
        grid = (self.grid[0] // self.shrunk, self.grid[1] // self.shrunk)
        span, doublings = None if self.span is None else self.span // self.shrunk, iter(self.doublings)
        masks = self.mask_vector.expand(batch, grid[0] * grid[1], -1).to(codes_BND.dtype)
        x_BND = torch.cat([codes_BND, masks], dim=1)
        rotation = self.positions(num_tokens, grid, span=span, device=x_BND.device)
        for number, block in enumerate(self.blocks):
            visible_BN = None if shown_BN is None else F.pad(shown_BN, (0, grid[0] * grid[1]), value=True)
            x_BND = block(x_BND, rotation, visible_BN)
            if number in self.double_after:
                latents, patches = x_BND.tensor_split([num_tokens], dim=1)
                x_BND = torch.cat([latents, to_tokens(next(doublings)(to_grid(patches, grid)))], dim=1)
                grid, span = (2 * grid[0], 2 * grid[1]), None if span is None else 2 * span
                rotation = self.positions(num_tokens, grid, span=span, device=x_BND.device)
        patches_BNP = self.to_pixels(self.norm(x_BND[:, num_tokens:]))
        return from_patches(patches_BNP, self.patch_size, self.grid)
