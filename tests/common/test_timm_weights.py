"""timm's networks and parts that start from them; every part that takes `pretrained` fails alike without network."""

import pytest
import torch
from torch import nn

from imtok.common.build import build
from imtok.common.errors import MissingWeights, UserError
from imtok.common.timm_weights import start_from, timm_network
from imtok.common.weights import left_out

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}


def vit(source: str | None, **more):
    return timm_network("vit_tiny_patch16_224", source, **SIZES, **more)


def test_random_weights_are_the_same_everywhere_and_draw_nothing_of_the_run() -> None:
    torch.manual_seed(7)
    next_number = torch.rand(1)
    torch.manual_seed(7)
    one, origin = vit("random")
    assert torch.equal(torch.rand(1), next_number) and origin.random
    two, _ = vit(None)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(vit(None, seed=None)[0].pos_embed, two.pos_embed)


def test_a_file_of_timms_names(tmp_path) -> None:
    other, _ = vit("random", seed=3)
    torch.save(other.state_dict(), tmp_path / "vit.pt")
    read, origin = vit(str(tmp_path / "vit.pt"))
    assert torch.equal(read.pos_embed, other.pos_embed) and not origin.random and origin.label
    doubled, _ = vit(str(tmp_path / "vit.pt"), rename=lambda state, model: {k: 2 * v for k, v in state.items()})
    assert torch.equal(doubled.pos_embed, 2 * other.pos_embed)
    with pytest.raises(UserError, match=r"^weights=.*another architecture than timm's vit_small_patch16_224;"):
        timm_network("vit_small_patch16_224", str(tmp_path / "vit.pt"), num_classes=0)
    with pytest.raises(UserError, match=r"^model=vit_nonsense: timm knows no such model; e\.g\. vit_"):
        timm_network("vit_nonsense", "random")


@pytest.mark.parametrize("prefix", ["", "visual.trunk.", "encoder.tower."])
def test_parts_start_from_a_file(tmp_path, prefix) -> None:
    other, own = vit("random", seed=3)[0], vit("random")[0]
    torch.save({prefix + k: v for k, v in other.state_dict().items()}, tmp_path / "clip.pt")
    tail = nn.ModuleDict({"1": own.blocks[1]})
    start_from({"blocks.": tail}, str(tmp_path / "clip.pt"))
    assert torch.equal(own.blocks[1].mlp.fc1.weight, other.blocks[1].mlp.fc1.weight)
    assert not torch.equal(own.blocks[0].mlp.fc1.weight, other.blocks[0].mlp.fc1.weight)
    start_from(own, str(tmp_path / "clip.pt"))
    assert torch.equal(own.pos_embed, other.pos_embed)


def test_nothing_is_opened_where_nothing_is_named_or_wanted() -> None:
    start_from(nn.Linear(2, 2), None)
    with left_out():
        start_from(nn.Linear(2, 2), "nowhere.pt")
        assert vit("pretrained")[1].random
    with pytest.raises(
        MissingWeights, match=r"^pretrained=no\.pt: no such file; use pretrained=PATH .* pretrained=null"
    ):
        start_from(nn.Linear(2, 2), "no.pt")
    with pytest.raises(UserError, match=r"^pretrained=vit_nonsense: neither a file nor a timm model"):
        start_from(nn.Linear(2, 2), "vit_nonsense")


TAIL = {"dim": {"semantic": 8}, "width": 16, "num_heads": 2, "mlp_width": 32}
PARTS = {  # every class that takes `pretrained`
    "losses.lpips.LPIPS": {},
    "losses.convnext.ConvNeXt": {"size": "tiny"},
    "losses.adversarial.dino.DinoDiscriminator": {},
    "losses.adversarial.dinov2.DinoV2Discriminator": {},
    "losses.teachers.timm_teacher.TimmTeacher": {"model": "vit_tiny_patch16_224.augreg_in21k"},
    "losses.teachers.open_clip_teacher.OpenClipTeacher": {"model": "ViT-B-16", "tag": "openai"},
    "losses.teachers.text_tower.TextTower": {"model": "ViT-B-16", "tag": "openai", "weights": "pretrained"},
    "tokenizers.encoders.timm_grid.TimmGridEncoder": {"pretrained": True},
    "tokenizers.towers.vit.ViTTower": {"image_size": 224, "pretrained": "vit_base_patch16_siglip_224.webli"},
    "tokenizers.encoders.vit_queries.QueryViTEncoder": {"pretrained": "vit_base_patch14_dinov2.lvd142m"},
    "tokenizers.spaces.vae.VAESpace": {"base_channels": 32, "channel_multipliers": [1, 1], "pretrained": "some/vae"},
    "decoders.proxy_codes.ProxyCodeDecoder": {"channels": 32, "width": 64, "depth": 1, "pretrained": "pretrained"},
    "decoders.heads.tower_tail.TowerTailHead": TAIL | {"pretrained": "vit_so400m_patch14_siglip_384.webli"},
}


LARGE = {"decoders.heads.tower_tail.TowerTailHead", "tokenizers.encoders.vit_queries.QueryViTEncoder"}


@pytest.mark.parametrize("part", [pytest.param(p, marks=pytest.mark.slow if p in LARGE else ()) for p in PARTS])
def test_every_pretrained_part_fails_with_the_same_line_offline(part, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    node = {"_target_": f"imtok.{part}", **PARTS[part]}
    setting = "pretrained" if "pretrained" in node else "weights"
    line = (
        rf"^some\.place\.{setting}=\S+: .+ is not here and could not be fetched \(.+\); "
        rf"use {setting}=PATH of a file, or {setting}=(random|null)$"
    )
    with pytest.raises(MissingWeights, match=line):
        build(node, key="some.place")
