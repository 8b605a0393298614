"""UniTok's discriminator: its trunk against timm's own ViT, sizes, Meta's key names, and what a head is made of."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from imtok.common.errors import UserError
from imtok.losses.adversarial.diff_augment import DiffAugment
from imtok.losses.adversarial.dinov2 import MODEL, DinoV2Discriminator

SMALL = {"width": 32, "depth": 3, "num_heads": 2, "taps": (0, 2)}


def timm_vit() -> nn.Module:
    vit = timm.create_model(MODEL, num_classes=0, dynamic_img_size=True, embed_dim=32, depth=3, num_heads=2).eval()
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.2)
    return vit


@torch.no_grad()
def test_taps_are_the_blocks_outputs_plus_the_class_token(tmp_path) -> None:
    vit = timm_vit()
    # Meta's file has a mask token besides, which timm drops.
    torch.save(vit.state_dict() | {"mask_token": torch.zeros(1, 32)}, tmp_path / "dinov2_vits14_pretrain.pth")
    discriminator = DinoV2Discriminator(weights=str(tmp_path / "dinov2_vits14_pretrain.pth"), **SMALL).eval()
    assert not discriminator.trunk.origin.random
    images = torch.rand(2, 3, 56, 42) * 2 - 1
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    hidden = [vit._pos_embed(vit.patch_embed(((images + 1) / 2 - mean[:, None, None]) / deviation[:, None, None]))]
    for block in vit.blocks:
        hidden.append(block(hidden[-1]))
    for ours, theirs in zip(discriminator.trunk(images), [hidden[1], hidden[3]], strict=True):
        torch.testing.assert_close(ours, (theirs[:, 1:] + theirs[:, :1]).transpose(1, 2), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("side", "patches"), [(28, 4), (56, 16), (64, 16), (256, 324)])
def test_sides_go_to_the_next_lower_multiple_of_fourteen(side: int, patches: int) -> None:
    discriminator = DinoV2Discriminator(weights="random", augment=DiffAugment(), **SMALL)
    images = torch.rand(2, 3, side, side, requires_grad=True)
    logits = discriminator(images)
    assert logits.shape == (2, 2 * patches)
    logits.square().mean().backward()
    assert float(images.grad.abs().sum()) > 0


def test_crops_in_training_only() -> None:
    torch.manual_seed(0)
    discriminator, images = DinoV2Discriminator(weights="random", **SMALL), torch.rand(2, 3, 64, 64)
    assert len({float(discriminator(images).detach().sum()) for _ in range(8)}) > 2
    discriminator.eval()
    assert torch.equal(discriminator(images), discriminator(images))


def test_a_head_is_two_normed_convolutions_around_a_circle_and_one_to_logits() -> None:
    head, x = DinoV2Discriminator(weights="random", **SMALL).heads[0], torch.randn(2, 32, 16)

    def normed(x: torch.Tensor, conv: nn.Conv1d, norm: nn.GroupNorm, *, around: int) -> torch.Tensor:
        x = F.conv1d(torch.cat([x[..., 16 - around :], x, x[..., :around]], dim=-1), conv.weight, conv.bias)
        return F.leaky_relu(F.group_norm(x, 32, norm.weight, norm.bias, eps=1e-6), 0.2)

    first = normed(x, head[0][0], head[0][1], around=0)
    second = (normed(first, head[1].inner[0], head[1].inner[1], around=4) + first) / math.sqrt(2)
    torch.testing.assert_close(head(x), F.conv1d(second, head[2].weight, head[2].bias))
    for conv in (head[0][0], head[1].inner[0]):  # Xavier's deviation, halved
        fans = (conv.in_channels + conv.out_channels) * conv.kernel_size[0]
        assert float(conv.weight.detach().std()) == pytest.approx(0.5 * math.sqrt(2 / fans), rel=0.1)
        assert not conv.bias.any()


def test_only_heads_are_in_a_checkpoint_and_their_weights_are_plain() -> None:
    state = DinoV2Discriminator(weights="random", **SMALL).state_dict()
    assert {key.split(".")[0] for key in state} == {"heads"}
    assert not any(key.endswith(("_orig", "_u")) for key in state)  # no spectral norm


def test_wrong_weights_are_named(tmp_path) -> None:
    torch.save({"cls_token": torch.zeros(1, 1, 32)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"^weights=.*another architecture than timm's vit_small_patch14_dinov2"):
        DinoV2Discriminator(weights=str(tmp_path / "other.pth"), **SMALL)
    with pytest.raises(ValueError, match=r"^taps=\[3\]: blocks are 0 to 2"):
        DinoV2Discriminator(weights="random", **SMALL | {"taps": (3,)})
    assert DinoV2Discriminator(weights="random", **SMALL).smallest_image == 28  # the second convolution is 9 wide
    with pytest.raises(ValueError, match=r"^width=24"):
        DinoV2Discriminator(weights="random", **SMALL | {"width": 24})
