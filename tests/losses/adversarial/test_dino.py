"""The DINO discriminator: its trunk against timm's ViT, its norm against batch norm, and what a checkpoint holds."""

from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from imtok.common.errors import MissingWeights, UserError
from imtok.losses.adversarial.diff_augment import DiffAugment
from imtok.losses.adversarial.dino import DinoDiscriminator
from imtok.losses.adversarial.frozen_trunk import LocalBatchNorm

SMALL = {"width": 24, "depth": 3, "num_heads": 2, "taps": (0, 2)}


def timm_vit() -> nn.Module:
    sizes = {"embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 0}
    act = partial(nn.GELU, approximate="tanh")
    return timm.create_model("vit_small_patch16_224", act_layer=act, **sizes).eval()


def test_taps_are_timms_hidden_tokens_plus_the_class_token(tmp_path) -> None:
    vit = timm_vit()
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.2)
    for block in vit.blocks:
        block.attn.qkv.bias.data[24:48] = 0  # what the discriminator does to the keys' bias, which changes nothing
    torch.save(vit.state_dict(), tmp_path / "dino.pth")
    trunk = DinoDiscriminator(weights=str(tmp_path / "dino.pth"), **SMALL).trunk
    images = torch.rand(2, 3, 224, 224) * 2 - 1
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((images + 1) / 2 - mean[:, None, None]) / deviation[:, None, None]
    hidden = [vit._pos_embed(vit.patch_embed(x))]
    for block in vit.blocks:
        hidden.append(block(hidden[-1]))
    for ours, theirs in zip(trunk(images), [hidden[0], hidden[1], hidden[3]], strict=True):
        torch.testing.assert_close(ours, (theirs[:, 1:] + theirs[:, :1]).transpose(1, 2), atol=1e-4, rtol=1e-4)


def test_norm_looks_at_eight_samples_at_a_time() -> None:
    norm, x = LocalBatchNorm(width=5), torch.randn(20, 5, 7) * 3 + 1
    expected = [F.batch_norm(part, None, None, training=True, eps=1e-6) for part in x.tensor_split(3)]
    torch.testing.assert_close(norm(x), torch.cat(expected))
    assert torch.equal(norm.eval()(x), norm.train()(x))


@pytest.mark.parametrize("side", [32, 224, 256])
def test_any_size_gives_logits_for_each_tap_and_patch(side: int) -> None:
    discriminator = DinoDiscriminator(weights="random", augment=DiffAugment(), **SMALL)
    images = torch.rand(2, 3, side, side, requires_grad=True)
    logits = discriminator(images)
    assert logits.shape == (2, 3 * 196)
    logits.square().mean().backward()
    assert float(images.grad.abs().sum()) > 0


def test_eval_repeats_itself() -> None:
    discriminator = DinoDiscriminator(weights="random", augment=DiffAugment(), **SMALL).eval()
    images = torch.rand(2, 3, 256, 256)
    assert torch.equal(discriminator(images), discriminator(images))


def test_the_trunk_is_frozen_and_in_no_checkpoint_but_moves() -> None:
    discriminator = DinoDiscriminator(weights="random", **SMALL)
    assert not any("trunk" in name for name in discriminator.state_dict())
    assert all(p.requires_grad for p in discriminator.parameters())
    discriminator.double()
    assert discriminator.trunk.vit.pos_embed.dtype == torch.float64
    trunk = [p.clone() for p in DinoDiscriminator(weights="random", **SMALL).trunk.module.parameters()]
    torch.manual_seed(5)
    again = DinoDiscriminator(weights="random", **SMALL).trunk.module.parameters()
    assert all(torch.equal(a, b) for a, b in zip(trunk, again, strict=True))


def test_wrong_and_missing_weights_are_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(
        MissingWeights, match=r"^weights=pretrained: dino_deitsmall16_pretrain\.pth is not here.*use weights=PATH"
    ):
        DinoDiscriminator()
    torch.save({"cls_token": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="another architecture than DINO's ViT-S/16"):
        DinoDiscriminator(weights=str(tmp_path / "other.pth"))
    with pytest.raises(ValueError, match=r"^kernel=4"):
        DinoDiscriminator(weights="random", kernel=4)
