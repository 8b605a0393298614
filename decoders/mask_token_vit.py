"""ViT decoder with mask tokens: that of TiTok's one-stage models and of TA-TiTok."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..common.types import Latents, height_width
from ..layers.mask_token_vit import MaskTokenViT
from ..layers.patches import from_patches, grid_of
from ..layers.pixel_range import ImageRange, PixelRange
from ..layers.transformer import init_linear
from .base import Decoder


class MaskTokenViTDecoder(Decoder):
    """Mask tokens, codes and text features become patches, which one 3x3 convolution joins (arXiv 2501.07730).

    condition_dim: given by tokenizer.conditioner. image_range: of the pixels that it paints, "unit" is [0, 1]. Other
        settings are those of the encoder and of MaskTokenViT.
    """

    any_length = True
    last_layer_name = "conv_out.weight"

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
        out_channels: int = 3,
        class_token: bool = True,
        condition_dim: int | None = None,
        condition_tokens: int = 77,
        position_std: float | None = None,
        init_std: float | None = 0.02,
        located_start: bool = False,
        image_range: ImageRange = "signed",
    ) -> None:
        super().__init__()
        self.dim, self.patch_size = dim, patch_size
        self.pixel_range = PixelRange(image_range)
        self.vit = MaskTokenViT(
            dim=dim,
            num_tokens=num_tokens,
            grid=grid_of(height_width(image_size), patch_size),
            width=width,
            depth=depth,
            num_heads=num_heads,
            class_token=class_token,
            condition_dim=condition_dim,
            condition_tokens=condition_tokens,
            position_std=position_std,
            init_std=init_std,
            located_start=located_start,
        )
        self.to_patches = nn.Linear(width, out_channels * patch_size**2)
        self.conv_out = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        init_linear(self.to_patches, init_std)
        init_linear(self.conv_out, init_std)
        if located_start:  # the first images are faint patches, as they are
            nn.init.normal_(self.to_patches.weight, std=0.1 * width**-0.5)
            nn.init.dirac_(self.conv_out.weight)

    def forward(self, codes: Latents, conditions: Tensor | None = None) -> Tensor:
        patches = self.to_patches(self.vit(codes["main"], conditions))
        return self.pixel_range.outward(self.conv_out(from_patches(patches, self.patch_size, self.vit.grid)))
