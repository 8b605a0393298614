"""Teachers' defaults, layers from either end, sizes, and what a text tower is made of."""

import inspect
import logging

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imtok.common.errors import UserError
from imtok.common.weights import left_out
from imtok.losses.teachers.base import SemanticTeacher
from imtok.losses.teachers.open_clip_import import create_model
from imtok.losses.teachers.open_clip_teacher import OpenClipTeacher
from imtok.losses.teachers.registry import NamedTeachers
from imtok.losses.teachers.text_tower import TextTower
from imtok.losses.teachers.timm_teacher import TimmTeacher

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
CLIP = {"model": "ViT-S-32-alt", "weights": "random", "image_size": 64}


def vit(**more) -> TimmTeacher:
    return TimmTeacher(**({"model": "vit_tiny_patch16_224", "weights": "random", "model_args": VIT} | more))


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


@pytest.mark.parametrize(
    ("part", "published"),
    [
        (TimmTeacher, {"model": "vit_base_patch14_dinov2.lvd142m", "layer": -1, "final_norm": True}),
        (TimmTeacher, {"weights": "pretrained", "interpolation": "bicubic", "image_size": None}),
        (OpenClipTeacher, {"model": "ViT-B-16-quickgelu", "tag": "openai", "layer": -1, "final_norm": True}),
        (OpenClipTeacher, {"project_tokens": False, "interpolation": "bicubic", "image_size": None}),
        (TextTower, {"model": None, "weights": "random", "trainable": True, "max_tokens": None}),
        (NamedTeachers, {"nodes": None, "key": "teacher", "trusted": True}),
    ],
)
def test_defaults(part: type, published: dict) -> None:
    found = inspect.signature(part).parameters
    assert {name: found[name].default for name in published} == published
    assert SemanticTeacher.published_weights and TextTower.published_weights


@pytest.mark.parametrize(("layer", "same"), [(-1, 2), (-3, 0), (0, 0)])
def test_layers_are_counted_from_either_end(layer: int, same: int) -> None:
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(vit(layer=layer)(images).tokens_BND, vit(layer=same)(images).tokens_BND)
    assert not torch.equal(vit(layer=same)(images).tokens_BND, vit(layer=1)(images).tokens_BND)


@pytest.mark.parametrize("layer", [-4, 3])
def test_a_layer_beyond_the_ends(layer: int) -> None:
    with pytest.raises(ValueError, match=rf"^layer={layer}: .* has layers 0 to 2 \(or -3 to -1\)"):
        vit(layer=layer)


def test_a_convolutional_teachers_width_is_that_of_its_layer() -> None:
    teacher = TimmTeacher(model="resnet10t", weights="random", layer=2, image_size=64, final_norm=False)
    seen = teacher(torch.rand(1, 3, 64, 64))
    assert seen.tokens_BND.shape[2] == teacher.tokens_dim == 128
    assert seen.pooled_BD.shape == (1, teacher.pooled_dim) == (1, 512)
    assert TimmTeacher(model="resnet10t", weights="random").image_size == (176, 176)  # timm's own


def test_larger_images_are_shrunk_without_aliases_and_other_statistics_are_taken() -> None:
    teacher = vit(interpolation="bilinear", mean=[0.5] * 3, deviation=[0.25] * 3)
    images = torch.rand(1, 3, 80, 48) * 2 - 1
    small = F.interpolate((images + 1) / 2, (32, 32), mode="bilinear", antialias=True)
    torch.testing.assert_close(teacher.prepared(images), (small - 0.5) / 0.25)
    own = vit()
    config = own.network.pretrained_cfg
    assert own.mean.flatten().tolist() == pytest.approx(config["mean"])
    assert own.deviation.flatten().tolist() == pytest.approx(config["std"])
    assert own.image_size == (32, 32) and not own.training and not own.state_dict().keys() & {"mean", "deviation"}
    assert vit(model_args=VIT | {"img_size": (16, 32)}).image_size == (16, 32)


def test_a_batch_is_forgotten_when_it_is_gone() -> None:
    teacher = vit()
    first = teacher(torch.ones(1, 3, 32, 32))
    second = teacher(torch.zeros(1, 3, 32, 32))
    assert not torch.equal(first.tokens_BND, second.tokens_BND)


@torch.no_grad()
def test_layers_of_an_open_clip_tower() -> None:
    images = torch.rand(1, 3, 64, 64) * 2 - 1
    last, raw = OpenClipTeacher(**CLIP), OpenClipTeacher(**CLIP, final_norm=False)
    network = last.network
    depth = len(network.transformer.resblocks)
    torch.testing.assert_close(network.ln_post(raw(images).tokens_BND), last(images).tokens_BND)
    inner = OpenClipTeacher(**CLIP, layer=-2, final_norm=False)
    assert not torch.allclose(inner(images).tokens_BND, raw(images).tokens_BND)
    same = OpenClipTeacher(**CLIP, layer=depth - 2, final_norm=False)
    assert torch.equal(inner(images).tokens_BND, same(images).tokens_BND)
    for layer in (depth, -depth - 1):
        with pytest.raises(ValueError, match=rf"^layer={layer}: .* has layers 0 to {depth - 1} \(or -{depth} to -1\)"):
            OpenClipTeacher(**CLIP, layer=layer)
    assert last.image_size == (64, 64) and last.weights_are_random and last.pooled_dim == 256
    assert OpenClipTeacher(**CLIP | {"image_size": None}).image_size == (224, 224)
    own = network.preprocess_cfg
    assert last.mean.flatten().tolist() == pytest.approx(own["mean"])
    assert last.deviation.flatten().tolist() == pytest.approx(own["std"])
    assert OpenClipTeacher(**CLIP, mean=[0.5] * 3, deviation=[0.2] * 3).mean.flatten().tolist() == [0.5] * 3


def test_random_clip_towers_are_equal_and_move_no_random_numbers() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    a = OpenClipTeacher(**CLIP)
    assert torch.equal(torch.rand(2), expected)
    b = OpenClipTeacher(**CLIP)  # from another state of the generator
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_named_text_tower_is_open_clips(tmp_path) -> None:
    whole = open_clip.create_model("ViT-S-32-alt", force_custom_text=True)
    torch.save(whole.state_dict(), tmp_path / "clip.pt")
    tower = TextTower(model="ViT-S-32-alt", weights=str(tmp_path / "clip.pt"), trainable=False)
    captions = ["a red ring", "a star"]
    with torch.no_grad():
        expected = whole.encode_text(open_clip.get_tokenizer("ViT-S-32-alt")(captions))
    torch.testing.assert_close(tower(captions), expected)
    assert tower.dim == 256 and not tower.origin.random and not any(p.requires_grad for p in tower.parameters())
    torch.save({f"text.{k}": v for k, v in whole.text.state_dict().items()}, tmp_path / "text.pt")
    tower, found = create_model("ViT-S-32-alt", part="text", tag=None, weights=str(tmp_path / "text.pt"))
    assert isinstance(tower, nn.Module) and not found.random
    assert torch.equal(tower.token_embedding.weight, whole.text.token_embedding.weight)


def test_published_weights_are_asked_of_open_clip_by_their_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, made = [], open_clip.create_model

    def without_network(model: str, *, pretrained: str | None, **options) -> nn.Module:
        asked.append(pretrained)
        return made(model, pretrained=None, **options)

    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda model: ["mine"])
    monkeypatch.setattr(open_clip, "create_model", without_network)
    _, found = create_model("ViT-S-32-alt", part="text", tag="mine", weights="pretrained")
    assert asked == ["mine"] and found.published and not found.random
    with left_out():
        create_model("ViT-S-32-alt", part="text", tag="mine", weights="pretrained")
    create_model("ViT-S-32-alt", part="text", tag="mine", weights="random")
    assert asked == ["mine", None, None]


def test_a_text_tower_says_its_origin_only_when_it_is_frozen() -> None:
    sizes = {"width": 8, "layers": 1, "heads": 2, "dim": 4, "max_tokens": 8}
    assert TextTower(**sizes).origin is None
    frozen = TextTower(**sizes, trainable=False)
    assert frozen.origin.random and frozen.network.positional_embedding.shape == (8, 8)
    assert frozen.caption_numbers(["a star " * 50]).shape == (1, 8)
    assert frozen.dim == frozen(["a star"]).shape[1] == 4


def test_a_node_that_is_no_teacher() -> None:
    teachers = NamedTeachers({"odd": {"_target_": "torch.nn.Identity"}}, key="mine")
    with pytest.raises(UserError, match=r"^mine\.odd\._target_=torch\.nn\.Identity: not a SemanticTeacher"):
        teachers.get("odd", asked_by="x")
    with pytest.raises(UserError, match="none is selected"):
        NamedTeachers().get("odd", asked_by="x")
