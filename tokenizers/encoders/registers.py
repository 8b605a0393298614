"""FlexTok's encoder: a ViT with learned register tokens, ordered so that the first carry the most."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...common.modules import ModuleList
from ...common.types import Latents, Stream, height_width
from ...layers.flex_block import FlexBlock, match_like_with_like, normed, xavier, zeroed
from ...layers.level_attention import prefix_causal
from ...layers.located_start import sincos_places
from ...layers.patches import grid_of, sincos_grid, to_patches
from ...layers.prefix_places import prefix_places
from .base import FixedSizeEncoder


class RegisterEncoder(FixedSizeEncoder):
    """Patches, then registers, in one sequence (Bachmann et al., arXiv 2502.13967, section 3.1).

    dim: width handed to the quantizer. num_tokens: registers.
    input_size, in_channels: of what is encoded, images or a VAE's latents; given by the tokenizer.
    causal: register i sees all patches and the registers up to i; patches see no register. False: all see all.
    register_std, zero_head: as published, registers begin nearly equal and latents at zero. In a short training, large
        registers (1.0) and latents that differ from the start (false) leave the plateau of codes that say nothing.
    located_start: registers start with places in the image, coarse to fine (prefix_places.py), and attend there
        (located_start.py); register_std is then added to that.
    """

    def __init__(
        self,
        *,
        dim: int = 6,
        num_tokens: int = 256,
        input_size: Sequence[int] = (32, 32),
        in_channels: int = 3,
        patch_size: int = 2,
        width: int = 768,
        depth: int = 12,
        head_dim: int = 64,
        causal: bool = True,
        register_std: float = 0.02,
        zero_head: bool = True,
        located_start: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.num_tokens, self.patch_size = dim, num_tokens, patch_size
        self.input_size = height_width(input_size)
        grid = grid_of(self.input_size, patch_size)
        self.patches = xavier(in_channels * patch_size**2, width)
        positions = sincos_places(grid, width) if located_start else sincos_grid(grid, width)
        self.positions_ND = nn.Buffer(positions, persistent=False)
        self.registers = nn.Parameter(nn.init.normal_(torch.empty(num_tokens, width), std=register_std))
        self.mask = prefix_causal(grid[0] * grid[1], num_tokens) if causal else None
        self.blocks = ModuleList(FlexBlock(width=width, head_dim=head_dim) for _ in range(depth))
        if located_start:
            with torch.no_grad():
                self.registers.add_(prefix_places(num_tokens, width))
                match_like_with_like(self.blocks)
        self.to_latents = zeroed(width, dim) if zero_head else xavier(width, dim)

    def forward(self, images: Tensor) -> Latents:
        patches = self.patches(to_patches(images, self.patch_size)) + self.positions_ND
        x_BND = torch.cat([patches, self.registers.expand(len(images), -1, -1).to(patches.dtype)], dim=1)
        for block in self.blocks:
            x_BND = block(x_BND, self.mask)
        return {"main": Stream(self.to_latents(normed(x_BND[:, -self.num_tokens :])))}
