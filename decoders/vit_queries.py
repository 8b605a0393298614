"""ViT decoder over mask tokens and codes: that of ImageFolder (arXiv 2410.01756) and XQ-GAN."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..common.timm_weights import start_from
from ..common.types import Latents, height_width
from ..layers.patches import from_patches, grid_of
from ..layers.timm_vit import TimmViT
from .base import Decoder


class QueryViTDecoder(Decoder):
    """One mask token per patch, then the codes, in one sequence; each mask token becomes the pixels of its patch.

    dim: width of the codes, all branches concatenated. Both sets have a class token and the ViT's positions.
    pretrained: name of timm weights to start from.
    """

    needs_grid = True
    last_layer_name = "to_pixels.weight"

    def __init__(
        self,
        *,
        dim: int = 64,
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
        self.dim = dim
        self.patch_size = patch_size
        size = height_width(image_size)
        self.project = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, width) * 1e-6)
        self.sets = nn.Parameter(nn.init.normal_(torch.empty(2, width), std=(1 / width / 3) ** 0.5))
        self.vit = TimmViT(
            width=width,
            depth=depth,
            num_heads=num_heads,
            grid=grid_of(size, patch_size),
            layer_scale=layer_scale,
            drop_path=drop_path,
        )
        self.to_pixels = nn.Linear(width, 3 * patch_size**2)
        start_from(self.vit, pretrained, img_size=size, patch_size=patch_size)

    def forward(self, codes: Latents) -> Tensor:
        stream = codes["main"]
        assert stream.grid is not None, "this decoder needs codes on a grid, for their positions"
        height, width = self.vit.grid
        masks = self.mask_token.expand(len(stream.x_BND), height * width, -1)
        picture = self.vit.placed(masks, self.vit.grid, with_class=True) + self.sets[0]
        latents = self.vit.placed(self.project(stream.x_BND), stream.grid, with_class=True) + self.sets[1]
        x_BND = self.vit(torch.cat([picture, latents], dim=1))[:, 1 : 1 + height * width]
        return from_patches(self.to_pixels(x_BND), self.patch_size, self.vit.grid)
