"""A discriminator on a frozen DINOv2 ViT-S/14, at the picture's own size: UniTok's (arXiv 2502.20321) and MedITok's.

Other than on DINO (dino.py): sides go to the next lower multiple of 14, no depth before block 0, group norm, no
spectral norm.
"""

import math

import timm
import torch
from torch import Tensor, nn

from ...common.errors import MissingWeights, UserError
from ...tokenizers.towers.base import Standardize
from .frozen_trunk import FrozenTrunk, FrozenTrunkDiscriminator, check_taps, fill_randomly, patches_and_class

MODEL, PATCH = "vit_small_patch14_dinov2.lvd142m", 14
SETTING = "adversary.discriminator.weights"


class DinoV2Discriminator(FrozenTrunkDiscriminator):
    """Images in [-1, 1] to logits, one a depth and patch; augment and kernel: see FrozenTrunkDiscriminator.

    weights: "pretrained" (through timm's hub), PATH of a state dict (Meta's dinov2_vits14_pretrain.pth or timm's), or
        "random" (seeded). taps: blocks after which a head reads.
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
        taps: tuple[int, ...] = (0, 2, 5, 8, 11),
    ) -> None:
        check_taps(taps, depth)
        trunk = DinoV2Trunk(width=width, depth=depth, num_heads=num_heads, taps=tuple(taps), weights=weights)
        super().__init__(trunk=trunk, augment=augment, kernel=kernel, norm="group", spectral=False)
        for module in self.heads.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.xavier_normal_(module.weight, gain=0.5)
                nn.init.zeros_(module.bias)

    @property
    def smallest_image(self) -> int:
        """Side below which a head's circular padding would go around more than once."""
        return PATCH * math.ceil(math.sqrt(self.kernel // 2))


class DinoV2Trunk(FrozenTrunk):
    """[B, 3, H, W] in [-1, 1], sides multiples of 14, to patch tokens plus class token, [B, D, N], after `taps`."""

    def __init__(self, *, width: int, depth: int, num_heads: int, taps: tuple[int, ...], weights: str) -> None:
        super().__init__()
        self.taps, self.width, self.depths = taps, width, len(taps)
        sizes = {"embed_dim": width, "depth": depth, "num_heads": num_heads}
        try:
            with torch.random.fork_rng(devices=[]):
                self.vit = timm.create_model(
                    MODEL, pretrained=weights == "pretrained", dynamic_img_size=True, num_classes=0, **sizes
                )
        except Exception as error:  # the hub client raises a dozen unrelated types
            if weights != "pretrained":
                raise
            raise MissingWeights(
                f"{SETTING}=pretrained: timm could not fetch {MODEL} ({type(error).__name__}); use {SETTING}=PATH"
            ) from error
        if weights == "random":
            fill_randomly(self.vit)
        elif weights != "pretrained":
            self._load(weights)
        self.weights_are_random = weights == "random"
        self.standardize = Standardize("imagenet")

    def side_for(self, side: int) -> int:
        return max(side // PATCH, 1) * PATCH

    def forward(self, images: Tensor) -> list[Tensor]:
        found = self.vit.forward_intermediates(
            self.standardize(images),
            indices=list(self.taps),
            return_prefix_tokens=True,
            norm=False,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return [patches_and_class(torch.cat([prefix, patches], dim=1)) for patches, prefix in found]

    def _load(self, path: str) -> None:
        from timm.models.vision_transformer import checkpoint_filter_fn

        from ...common.weights import first_misfit, read_state_dict

        state = checkpoint_filter_fn(read_state_dict(path, key=SETTING), self.vit)
        own = self.vit.state_dict()
        if wrong := first_misfit(own, state):
            raise UserError(f"{SETTING}={path}: not DINOv2's ViT-S/14 ({wrong} missing or misshapen)")
        self.vit.load_state_dict({k: state[k] for k in own})
