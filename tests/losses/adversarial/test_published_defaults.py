"""What a part does when a YAML says nothing is what its publication does; the numbers are those printed there."""

import inspect

import pytest
import timm
import torch

from imtok.losses.adversarial.adaptive_weight import AdaptiveWeight
from imtok.losses.adversarial.consistency import BalancedConsistency
from imtok.losses.adversarial.diff_augment import DiffAugment
from imtok.losses.adversarial.dino import DinoDiscriminator
from imtok.losses.adversarial.dinov2 import DinoV2Discriminator
from imtok.losses.adversarial.frozen_trunk import LocalBatchNorm
from imtok.losses.adversarial.lecam import LeCam
from imtok.losses.adversarial.patchgan import PatchGAN
from imtok.losses.adversarial.residual_patchgan import ResidualPatchGAN


def defaults(part: type) -> dict[str, object]:
    return {name: p.default for name, p in inspect.signature(part).parameters.items()}


@pytest.mark.parametrize(
    ("part", "published"),
    [
        pytest.param(AdaptiveWeight, {"eps": 1e-4, "minimum": 0.0, "maximum": 1e4}, id="taming-transformers"),
        pytest.param(PatchGAN, {"in_channels": 3, "ndf": 64, "n_layers": 3}, id="pix2pix"),
        pytest.param(ResidualPatchGAN, {"in_channels": 3, "ndf": 64, "n_layers": 3}, id="pix2pix, residual"),
        pytest.param(DiffAugment, {"chance": 1.0, "shift": 1 / 8, "cutout": 0.2, "blur_updates": 0}, id="StyleGAN-T"),
        pytest.param(LeCam, {"weight": 1e-3, "decay": 0.999, "start": 0}, id="TiTok"),
        pytest.param(BalancedConsistency, {"weight": 4.0}, id="XQ-GAN"),
        pytest.param(LocalBatchNorm, {"group": 8, "eps": 1e-6}, id="StyleGAN-T's local batch norm"),
        pytest.param(DinoDiscriminator, {"kernel": 9, "taps": (2, 5, 8, 11)}, id="StyleGAN-T's heads"),
        pytest.param(DinoV2Discriminator, {"kernel": 9, "taps": (0, 2, 5, 8, 11)}, id="UniTok's heads"),
    ],
)
def test_defaults(part: type, published: dict[str, object]) -> None:
    found = defaults(part)
    assert {name: found[name] for name in published} == published


@pytest.mark.parametrize(
    ("part", "name"),
    [(DinoDiscriminator, "vit_small_patch16_224.dino"), (DinoV2Discriminator, "vit_small_patch14_dinov2.lvd142m")],
)
def test_default_trunk_is_the_small_vit_that_the_weights_are_for(part: type, name: str) -> None:
    with torch.device("meta"):
        vit = timm.create_model(name)
    sizes = {"width": vit.embed_dim, "depth": len(vit.blocks), "num_heads": vit.blocks[0].attn.num_heads}
    assert {key: defaults(part)[key] for key in sizes} == sizes
