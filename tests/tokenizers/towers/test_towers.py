"""Towers against timm's models of the same names, and where their weights may come from."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vitamin import GeGluMlp, VitCfg, _create_vitamin

from imtok.common.errors import UserError
from imtok.common.weights import fill
from imtok.tokenizers.towers.base import STATISTICS, Standardize
from imtok.tokenizers.towers.vit import ViTTower
from imtok.tokenizers.towers.vitamin import ViTaminTower

SMALL = {"width": 32, "depth": 3, "num_heads": 4, "image_size": 32, "patch_size": 8}


def scrambled(model: torch.nn.Module) -> torch.nn.Module:
    """No parameter keeps a value that would hide a mistake."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def timm_model(name: str, **more) -> torch.nn.Module:
    sizes = {"embed_dim": 32, "depth": 3, "num_heads": 4, "img_size": 32, "patch_size": 8}
    return scrambled(timm.create_model(name, num_classes=0, **sizes, **more))


def clip_tower(**more) -> ViTTower:
    clip = {"activation": "quick_gelu", "class_token": True, "pre_norm": True, "patch_bias": False, "eps": 1e-5}
    return ViTTower(**(SMALL | clip | {"statistics": "none"} | more)).eval()


def test_clip_is_timms() -> None:
    theirs, ours, images = timm_model("vit_base_patch16_clip_quickgelu_224"), clip_tower(), torch.randn(2, 3, 32, 32)
    fill(ours, theirs.state_dict(), source="timm")
    torch.testing.assert_close(ours(images), theirs.forward_features(images)[:, 1:], rtol=1e-4, atol=1e-5)


def test_siglip_is_timms_and_taps_count_from_one() -> None:
    theirs = timm_model("vit_so400m_patch14_siglip_224.v2_webli", mlp_ratio=68 / 32)
    gelu = {"activation": "gelu"}  # timm runs SigLIP without the tanh that its authors trained with
    ours = ViTTower(**SMALL, **gelu, mlp_width=68).eval()
    fill(ours, theirs.state_dict(), source="timm")
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs.forward_features(images), rtol=1e-4, atol=1e-5)
    given = {"indices": [0, 2], "norm": False, "output_fmt": "NLC", "intermediates_only": True}
    expected = theirs.forward_intermediates(images, **given)
    for actual, wanted in zip(ours.tapped(images, [1, 3]), expected, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)
    shallow = ViTTower(
        **(SMALL | {"depth": 2}), **gelu, mlp_width=68, final_norm=False
    ).eval()  # hidden_states[-2] of 3 layers
    fill(shallow, theirs.state_dict(), source="timm")
    torch.testing.assert_close(shallow(images), ours.tapped(images, [2])[0])


def test_vitamin_is_timms() -> None:
    sizes = {"embed_dim": (16, 32, 48), "depths": (2, 3, 1), "stem_width": 16}
    theirs = _create_vitamin(
        "vitamin_small_224",
        embed_cfg=VitCfg(**sizes),
        embed_dim=48,
        depth=2,
        num_heads=4,
        mlp_layer=GeGluMlp,
        mlp_ratio=2.0,
        class_token=False,
        global_pool="avg",
        img_size=64,
        num_classes=0,
    )
    scrambled(theirs)
    ours = ViTaminTower(
        image_size=64, width=48, depth=2, num_heads=4, conv_widths=[16, 32], conv_depths=[2, 3], final_norm=False
    ).eval()
    fill(ours, theirs.state_dict(), source="timm")
    mean, deviation = (torch.tensor(v)[:, None, None] for v in STATISTICS["clip"])
    images = torch.rand(2, 3, 64, 64)
    expected = theirs.forward_features((images - mean) / deviation)
    torch.testing.assert_close(ours(images * 2 - 1), expected, rtol=1e-4, atol=1e-4 * float(expected.detach().std()))


@pytest.mark.parametrize("name", ["half", "clip", "imagenet"])
def test_statistics_are_those_of_images_from_0_to_1(name: str) -> None:
    mean, deviation = (torch.tensor(v)[:, None, None] for v in STATISTICS[name])
    images = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(Standardize(name)(images * 2 - 1), (images - mean) / deviation)


def test_weights_from_a_file_and_what_does_not_fit(tmp_path) -> None:
    source = scrambled(clip_tower())
    save_file({f"visual.trunk.{k}": v for k, v in source.state_dict().items()}, tmp_path / "clip.safetensors")
    loaded = clip_tower(pretrained=str(tmp_path / "clip.safetensors"))
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in source.state_dict().items())
    with pytest.raises(UserError, match=r"^pretrained=.*another architecture; \d+ missing: blocks\.3\.norm1"):
        clip_tower(pretrained=str(tmp_path / "clip.safetensors"), depth=4)
    with pytest.raises(UserError, match="neither a file nor a timm model"):
        ViTTower(**SMALL, pretrained="siglip")


def test_sides_that_do_not_divide_lose_their_rest_and_positions_are_resampled() -> None:
    tower = ViTTower(**(SMALL | {"image_size": 38}))
    assert tower.grid((38, 38)) == (4, 4)
    assert tower(torch.randn(1, 3, 38, 38)).shape == (1, 16, 32)
    assert tower(torch.randn(1, 3, 48, 24)).shape == (1, 18, 32)
    with pytest.raises(ValueError, match="smaller than a patch"):
        tower.grid((7, 32))


def test_the_defaults_are_vitamin_large() -> None:
    with torch.device("meta"):
        theirs = timm.create_model("vitamin_large_224", num_classes=0)
        ours = ViTaminTower(image_size=224, final_norm=False)
    expected = {name: tensor.shape for name, tensor in theirs.state_dict().items() if "norm_pre" not in name}
    own = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    assert own == {name: shape for name, shape in expected.items() if name in own}
    assert set(expected) - set(own) <= {"fc_norm.weight", "fc_norm.bias"}
    assert {block.attn.num_heads for block in ours.blocks} == {block.attn.num_heads for block in theirs.blocks}
    with pytest.raises(ValueError, match=r"conv_depths=\[2\]"):
        ViTaminTower(image_size=224, conv_depths=[2])
    with pytest.raises(ValueError, match="multiples of 16"):
        ours.grid((224, 225))
