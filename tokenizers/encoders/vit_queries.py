"""The encoder of ImageFolder and XQ-GAN: a ViT with a grid of learned queries.

ImageFolder: Li et al., arXiv 2410.01756; XQ-GAN: arXiv 2412.01762.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...common.timm_weights import start_from
from ...common.types import Grid, Latents, Stream, height_width
from ...layers.patches import grid_of
from ...layers.timm_vit import TimmViT
from .base import FixedSizeEncoder


class QueryViTEncoder(FixedSizeEncoder):
    """Patches, then a grid of learned queries per branch, in one sequence; what the queries become is the latent.

    dim: width handed to the quantizer: the branches' vectors of dim / branches side by side, so that a product
        quantizer of `branches` parts reads one branch each. The projection to it is shared by the branches.
    latent_side: queries of a branch stand on a latent_side x latent_side grid, with the ViT's own positions resampled
        to it, whatever the image.
    pretrained: name of timm weights to start from (the published systems: vit_base_patch14_dinov2.lvd142m).
    """

    latent_grid: Grid

    def __init__(
        self,
        *,
        dim: int = 64,
        branches: int = 1,
        latent_side: int = 16,
        image_size: int | Sequence[int] = 256,
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        layer_scale: float | None = 1e-5,
        drop_path: float = 0.1,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        if dim % branches:
            raise ValueError(f"branches={branches}: dim={dim} cannot be split into that many equal parts")
        self.dim, self.branches = dim, branches
        self.latent_grid, self.num_tokens = (latent_side, latent_side), latent_side**2
        self.input_size = height_width(image_size)
        grid = grid_of(self.input_size, patch_size)

        self.patches = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.queries = nn.Parameter(torch.randn(branches * latent_side**2, width) * 1e-6)
        # Which set a token is of: 0 the image and its class token, 1 + i the queries of branch i.
        self.sets = nn.Parameter(nn.init.normal_(torch.empty(1 + branches, width), std=(1 / width / 3) ** 0.5))
        self.vit = TimmViT(
            width=width, depth=depth, num_heads=num_heads, grid=grid, layer_scale=layer_scale, drop_path=drop_path
        )
        self.project = nn.Linear(width, dim // branches)
        parts = {"": self.vit, "patch_embed.proj.": self.patches}
        start_from(parts, pretrained, img_size=self.input_size, patch_size=patch_size)

    def forward(self, images: Tensor) -> Latents:
        x_BND = self.patches(images).flatten(2).transpose(1, 2)
        sequence = [self.vit.placed(x_BND, self.vit.grid, with_class=True) + self.sets[0]]
        for branch, queries in enumerate(self.queries.chunk(self.branches)):
            placed = self.vit.placed(queries[None], self.latent_grid, with_class=False) + self.sets[1 + branch]
            sequence.append(placed.expand(len(images), -1, -1))
        out = self.vit(torch.cat(sequence, dim=1))
        out_BPND = out[:, -len(self.queries) :].unflatten(1, (self.branches, -1))
        z_BND = self.project(out_BPND).transpose(1, 2).flatten(2)
        return {"main": Stream(z_BND, grid=self.latent_grid)}
