"""Teachers against the networks they wrap: own resize and statistics, layers, memo, weights, errors."""

import logging

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

from imtok.common.errors import MissingWeights, UserError
from imtok.losses.teachers.open_clip_teacher import OpenClipTeacher
from imtok.losses.teachers.registry import NamedTeachers
from imtok.losses.teachers.timm_teacher import TimmTeacher

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
NODE = {"_target_": f"{TimmTeacher.__module__}.TimmTeacher", "model": "vit_tiny_patch16_224", "weights": "random"}


def vit(**more) -> TimmTeacher:
    return TimmTeacher(**({"model": "vit_tiny_patch16_224", "weights": "random", "model_args": VIT} | more))


def test_layers_norms_and_prefixes_are_those_of_the_network() -> None:
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    teacher = vit(mean=[0.1, 0.2, 0.3], deviation=[0.5, 0.6, 0.7])
    x = ((images + 1) / 2 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor([0.5, 0.6, 0.7])[:, None, None]
    network = teacher.network
    with torch.no_grad():
        expected = network.forward_features(x)
        inner = network.blocks[1](network.blocks[0](network.pos_drop(network._pos_embed(network.patch_embed(x)))))
    seen = teacher(images)
    torch.testing.assert_close(seen.tokens_BND, expected[:, 1:])  # without the class token
    torch.testing.assert_close(seen.pooled_BD, expected[:, 0])
    assert seen.grid == (4, 4) and teacher.tokens_dim == teacher.pooled_dim == 16

    other = vit(layer=-2, final_norm=False, mean=[0.1, 0.2, 0.3], deviation=[0.5, 0.6, 0.7])
    torch.testing.assert_close(other(images).tokens_BND, inner[:, 1:])
    torch.testing.assert_close(vit(layer=1, final_norm=False).tokens_dim, 16)


def test_it_resizes_by_itself_and_takes_cnns() -> None:
    teacher = TimmTeacher(model="resnet10t", weights="random", layer=3, image_size=64)
    small = torch.rand(1, 3, 16, 16) * 2 - 1
    seen = teacher(small)
    assert seen.tokens_BND.shape == (1, 16, teacher.tokens_dim) and seen.grid == (4, 4)
    large = torch.nn.functional.interpolate(small, size=64, mode="bicubic", antialias=True)
    torch.testing.assert_close(teacher(large).tokens_BND, seen.tokens_BND)


def test_one_pass_a_batch_without_gradients() -> None:
    teacher = vit()
    calls = []
    teacher.network.norm.register_forward_hook(lambda *_: calls.append(1))
    images = torch.rand(1, 3, 32, 32).requires_grad_()
    assert teacher(images) is teacher(images)
    once = len(calls)
    teacher(images.detach().clone())
    assert len(calls) == 2 * once
    assert not teacher(images).tokens_BND.requires_grad
    assert not any(p.requires_grad for p in teacher.parameters())


def test_weights_of_a_file_and_random_ones(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # timm was imported before it was said
    assert torch.equal(vit().network.patch_embed.proj.weight, vit().network.patch_embed.proj.weight)
    assert vit().weights_are_random
    other = timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT)
    file = tmp_path / "vit.safetensors"
    save_file(other.state_dict(), file)
    read = vit(weights=str(file))
    assert not read.weights_are_random
    assert torch.equal(read.network.pos_embed, other.pos_embed)
    with pytest.raises(ValueError, match="another architecture than timm's vit_tiny"):
        vit(weights=str(file), model_args=VIT | {"embed_dim": 32})
    with pytest.raises(MissingWeights, match=r"no such file; make it with: imtok train-teacher"):
        vit(weights="nowhere.pt", made_by="imtok train-teacher")
    with pytest.raises(MissingWeights, match="could not be fetched"):
        TimmTeacher(model="vit_tiny_patch16_224.augreg_in21k")
    with pytest.raises(ValueError, match="layer=3"):
        vit(layer=3)
    with pytest.raises(ValueError, match="no such model"):
        vit(model="vit_nonsense")


def test_open_clip_towers(tmp_path, caplog) -> None:
    caplog.set_level(logging.ERROR)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    options = {"model": "ViT-S-32-alt", "image_size": 64}
    model = open_clip.create_model("ViT-S-32-alt", force_image_size=64)
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    teacher = OpenClipTeacher(weights=str(tmp_path / "clip.pt"), project_tokens=True, **options)
    seen = teacher(images)
    with torch.no_grad():
        expected = model.encode_image(teacher.prepared(images))
    torch.testing.assert_close(seen.pooled_BD, expected)
    assert seen.grid == (2, 2) and seen.tokens_BND.shape == (2, 4, teacher.tokens_dim) and teacher.tokens_dim == 256
    plain = OpenClipTeacher(weights=str(tmp_path / "clip.pt"), **options)
    assert plain.tokens_dim == 384
    torch.testing.assert_close(plain(images).tokens_BND @ plain.network.proj, seen.tokens_BND)
    with pytest.raises(ValueError, match="no such model"):
        OpenClipTeacher(model="ViT-nonsense", weights="random")
    with pytest.raises(ValueError, match="tag=nonsense"):
        OpenClipTeacher(model="ViT-B-16", tag="nonsense")


def test_by_name_once() -> None:
    teachers = NamedTeachers({"small": NODE | {"model_args": VIT}, "other": NODE, "gone": None})
    first = teachers.get("small", asked_by="loss.x.term.teacher")
    assert teachers.get("small", asked_by="loss.y.term.teacher") is first
    assert teachers.unused == ["other"]
    with pytest.raises(UserError, match=r"loss\.x\.term\.teacher=smal: no such teacher; did you mean 'small'\?"):
        teachers.get("smal", asked_by="loss.x.term.teacher")
    with pytest.raises(UserError, match=r"teacher\.bad\.layer=99"):
        NamedTeachers({"bad": NODE | {"layer": 99, "model_args": VIT}}).get("bad", asked_by="x")
