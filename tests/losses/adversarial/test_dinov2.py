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
from imtok.losses.adversarial.frozen_trunk import resampled_positions

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
    file = str(tmp_path / "dinov2_vits14_pretrain.pth")
    discriminator = DinoV2Discriminator(weights=file, position_offset=None, **SMALL).eval()
    assert not discriminator.trunk.origin.random
    images = torch.rand(2, 3, 56, 42) * 2 - 1
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    hidden = [vit._pos_embed(vit.patch_embed(((images + 1) / 2 - mean[:, None, None]) / deviation[:, None, None]))]
    for block in vit.blocks:
        hidden.append(block(hidden[-1]))
    for ours, theirs in zip(discriminator.trunk(images), [hidden[1], hidden[3]], strict=True):
        torch.testing.assert_close(ours, (theirs[:, 1:] + theirs[:, :1]).transpose(1, 2), atol=1e-4, rtol=1e-4)


def test_positions_go_to_another_grid_by_dinov2s_rule() -> None:
    """Cubic convolution, a = -0.75, at (i + 0.5) / factor - 0.5, factor = (side + 0.1) / trained; edges repeated."""
    positions = torch.randn(1, 1 + 5 * 5, 3)

    def along(line_N: torch.Tensor, side: int) -> torch.Tensor:
        taps = []
        for i in range(side):
            x = (i + 0.5) / ((side + 0.1) / 5) - 0.5
            left, total = math.floor(x), torch.zeros_like(line_N[0])
            for k in range(-1, 3):
                d = abs(x - left - k)
                near, far = 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)
                total = total + (near if d <= 1 else far) * line_N[min(max(left + k, 0), 4)]
            taps.append(total)
        return torch.stack(taps)

    square = positions[0, 1:].view(5, 5, 3)
    rows = along(square, 3)
    expected = torch.stack([along(row, 2) for row in rows])
    moved = resampled_positions(positions, (3, 2), offset=0.1)
    torch.testing.assert_close(moved[0, 1:], expected.flatten(0, 1), atol=1e-5, rtol=1e-4)
    assert torch.equal(moved[:, :1], positions[:, :1])
    assert resampled_positions(positions, (5, 5), offset=0.1) is positions


def test_positions_of_the_discriminator_are_dinov2s() -> None:
    images, found = torch.rand(2, 3, 28, 28), []
    for offset in (0.1, None):
        discriminator = DinoV2Discriminator(weights="random", position_offset=offset, **SMALL).eval()
        nn.init.normal_(discriminator.trunk.module.vit.pos_embed, generator=torch.Generator().manual_seed(0))
        found.append(discriminator.trunk(images)[0])
        if offset is not None:
            vit = discriminator.trunk.module.vit
            at = resampled_positions(vit.pos_embed, (2, 2), offset=0.1)
            patches = vit.patch_embed(discriminator.trunk.module.standardize(images)).flatten(1, 2)
            first = vit.blocks[0](torch.cat([vit.cls_token.expand(2, -1, -1), patches], dim=1) + at)
            torch.testing.assert_close(found[0], (first[:, 1:] + first[:, :1]).transpose(1, 2))
    assert not torch.allclose(*found, atol=1e-2)


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
    never = DinoV2Discriminator(weights="random", crop_chance=0.0, **SMALL)
    assert len({float(never(images).detach().sum()) for _ in range(8)}) == 1
    discriminator.eval()
    assert torch.equal(discriminator(images), discriminator(images))
    with pytest.raises(ValueError, match=r"crop_chance=1\.5"):
        DinoV2Discriminator(weights="random", crop_chance=1.5, **SMALL)


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
