"""A discriminator on a frozen DINO ViT-S/16, at 224 pixels: that of VAR, XQ-GAN, GigaTok, ResTok and SFTok.

One small trained head on each of five depths; together they give 5 x 196 logits an image.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...common.timm_weights import timm_network
from ...common.weights import Published, load
from .frozen_trunk import FrozenTrunkDiscriminator, ViTTrunk

MODEL, SIDE = "vit_small_patch16_224.dino", 224
PUBLISHED = Published(
    url="https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth"
)  # without a published checksum


class DinoDiscriminator(FrozenTrunkDiscriminator):
    """Images in [-1, 1] to logits [B, 5 * 196]; augment, kernel, crop_chance: see FrozenTrunkDiscriminator.

    weights: "pretrained" (DINO's file in TORCH_HOME, else fetched), PATH of such a file, or "random" (seeded).
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
        taps: tuple[int, ...] = (2, 5, 8, 11),
    ) -> None:
        gelu = partial(nn.GELU, approximate="tanh")
        sizes: dict[str, Any] = {"embed_dim": width, "depth": depth, "num_heads": num_heads}
        vit, _ = timm_network(MODEL, "random", num_classes=0, act_layer=gelu, **sizes)
        vit.norm = nn.Identity()  # behind the last tap
        origin = load(vit, weights, published=PUBLISHED, rename=without_key_bias, network="DINO's ViT-S/16")
        trunk = ViTTrunk(vit, origin, taps=taps, before_blocks=True, side=SIDE)
        super().__init__(
            trunk=trunk, augment=augment, kernel=kernel, norm="local_batch", spectral=True, crop_chance=crop_chance
        )


def without_key_bias(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The bias of keys, which moves all scores of a query alike, as zero: so the discriminator was published."""
    found = dict(state)
    for name, value in state.items():
        if name.endswith("attn.qkv.bias"):
            found[name] = value.clone()
            found[name][len(value) // 3 : 2 * len(value) // 3] = 0
    return found
