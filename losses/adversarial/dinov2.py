"""A discriminator on a frozen DINOv2 ViT-S/14, at the image's own size: UniTok's (arXiv 2502.20321) and MedITok's.

Other than on DINO (dino.py): sides go to the next lower multiple of 14, no depth before block 0, group norm, no
spectral norm.
"""

import math
from typing import Any

from timm.models.vision_transformer import checkpoint_filter_fn
from torch import nn

from ...common.timm_weights import timm_network
from .frozen_trunk import FrozenTrunkDiscriminator, ViTTrunk

MODEL, PATCH = "vit_small_patch14_dinov2.lvd142m", 14


class DinoV2Discriminator(FrozenTrunkDiscriminator):
    """Images in [-1, 1] to logits, one per depth and patch.

    augment, kernel, crop_chance: as in FrozenTrunkDiscriminator.

    weights: "pretrained" (through timm's hub), PATH of a state dict (Meta's dinov2_vits14_pretrain.pth or timm's), or
        "random" (seeded). taps: blocks after which a head reads.
    position_offset: of DINOv2's resampling of positions, which UniTok kept; null: timm's, antialiased.
    """

    def __init__(
        self,
        *,
        weights: str = "pretrained",
        augment: nn.Module | None = None,
        kernel: int = 9,
        width: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        crop_chance: float = 0.5,
        taps: tuple[int, ...] = (0, 2, 5, 8, 11),
        position_offset: float | None = 0.1,
    ) -> None:
        sizes: dict[str, Any] = {"embed_dim": width, "depth": depth, "num_heads": num_heads, "dynamic_img_size": True}
        vit, origin = timm_network(MODEL, weights, rename=checkpoint_filter_fn, num_classes=0, **sizes)
        super().__init__(
            trunk=ViTTrunk(vit, origin, taps=taps, position_offset=position_offset),
            augment=augment,
            kernel=kernel,
            norm="group",
            spectral=False,
            crop_chance=crop_chance,
        )
        for module in self.heads.modules():
            if isinstance(module, nn.Conv1d):
                assert module.bias is not None
                nn.init.xavier_normal_(module.weight, gain=0.5)
                nn.init.zeros_(module.bias)

    @property
    def smallest_image(self) -> int:
        """Side below which a head's circular padding would go around more than once."""
        return PATCH * math.ceil(math.sqrt(self.kernel // 2))
