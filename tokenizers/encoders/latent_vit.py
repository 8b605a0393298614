"""The encoder of TiTok (Yu et al., arXiv 2406.07550): a ViT with learned latent tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...common.types import Latents, Stream, height_width
from ...layers.joint_transformer import JointTransformer, init_linear, learned
from ...layers.located_start import sincos_places, start_located, token_grid
from ...layers.patches import grid_of
from ...layers.pixel_range import ImageRange, PixelRange
from .base import FixedSizeEncoder


class LatentViTEncoder(FixedSizeEncoder):
    """Class token, patches, then `num_tokens` learned queries in one sequence; what the queries become is the latent.

    TiTok's sizes (width, depth, num_heads): small 512, 8, 8; base 768, 12, 12; large 1024, 24, 16.

    legacy_reshape: the first TiTok models read the memory of [tokens, width] as [width, tokens], so that every latent
        token mixes all queries; their weights, One-D-Piece's too, need it.
    position_std: of class token, queries and positions at the start; null: width ** -0.5.
    init_std: of linear layers at the start.
    located_start: instead of both, every query starts with a place in the image and attends there: what a small model
        needs (layers/located_start.py).
    image_range: of the pixels that the patches are made of; TiTok's "unit" is [0, 1].
    """

    def __init__(
        self,
        *,
        dim: int = 12,
        num_tokens: int = 128,
        image_size: int | Sequence[int] = 256,
        patch_size: int = 16,
        width: int = 512,
        depth: int = 8,
        num_heads: int = 8,
        in_channels: int = 3,
        class_token: bool = True,
        legacy_reshape: bool = False,
        position_std: float | None = None,
        init_std: float = 0.02,
        located_start: bool = False,
        image_range: ImageRange = "signed",
    ) -> None:
        super().__init__()
        if num_tokens < 1:
            raise ValueError(f"num_tokens={num_tokens}: at least 1")
        self.dim, self.num_tokens, self.legacy_reshape = dim, num_tokens, legacy_reshape
        self.input_size = height_width(image_size)
        self.pixel_range = PixelRange(image_range)
        height, width_in_patches = grid_of(self.input_size, patch_size)
        self.patches = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        self.class_token = learned(1, 1, width, std=position_std) if class_token else None
        self.positions = learned(class_token + height * width_in_patches, width, std=position_std)
        self.queries = learned(num_tokens, width, std=position_std)
        self.query_positions = learned(num_tokens, width, std=position_std)
        self.project = nn.Linear(width, dim)
        init_linear(self, init_std)
        self.transformer = JointTransformer(width=width, depth=depth, num_heads=num_heads, init_std=init_std)
        if located_start:
            start_located(self, self.transformer.attentions())
            places = sincos_places((height, width_in_patches), width)
            with torch.no_grad():
                self.positions[-len(places) :] = places
                self.query_positions.copy_(sincos_places(token_grid(num_tokens), width))
                self.queries.zero_()

    def forward(self, images: Tensor) -> Latents:
        x_BND = self.patches(self.pixel_range.inward(images)).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x_BND = torch.cat([self.class_token.expand(len(x_BND), -1, -1), x_BND], dim=1)
        queries = (self.queries + self.query_positions).expand(len(x_BND), -1, -1)
        out = self.transformer(torch.cat([x_BND + self.positions, queries], dim=1))
        latent_BND = self.transformer.norm_out(out[:, -self.num_tokens :])
        if self.legacy_reshape:
            tokens, width = latent_BND.shape[1:]
            latent_BND = latent_BND.reshape(-1, width, tokens).transpose(1, 2)
        return {"main": Stream(self.project(latent_BND))}
