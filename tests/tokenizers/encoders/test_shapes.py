"""Every encoder on an image that is no square: promised tokens, gradients everywhere, sizes it refuses in a line."""

from typing import Any

import pytest
import torch

from imtok.common.build import build
from imtok.common.errors import UserError

HOME = "imtok.tokenizers.encoders"
CNN = {"channels": 32, "channel_multipliers": [1, 1, 2], "blocks_per_level": 1}
VIT = {"width": 24, "depth": 2, "num_heads": 2, "patch_size": 4}
TOWER = {"_target_": "imtok.tokenizers.towers.vit.ViTTower", "image_size": [16, 24], **VIT}
# class: (settings, tokens of each stream and their grid at 16 x 24 pixels, a size it refuses)
ENCODERS: dict[str, tuple[dict[str, Any], dict[str, tuple[int, tuple[int, int] | None]], tuple[int, int] | None]] = {
    "cnn.CNNEncoder": ({**CNN, "z_channels": 8}, {"main": (24, (4, 6))}, (16, 18)),
    "cnn_movq.CNNMoVQEncoder": ({**CNN, "z_channels": 8}, {"main": (24, (4, 6))}, (18, 16)),
    "cnn_magvit2.CNNMagvit2Encoder": (CNN, {"main": (24, (4, 6))}, (2, 4)),
    "cnn_maskgit.CNNMaskgitEncoder": (CNN, {"main": (24, (4, 6))}, (16, 18)),
    "cnn_qformer.CNNQFormerEncoder": (
        {**CNN, "input_size": [16, 24], "num_tokens": 8, "z_channels": 32, "width": 24, "depth": 2, "num_heads": 2},
        {"main": (8, None)},
        (24, 16),
    ),
    "latent_vit.LatentViTEncoder": ({**VIT, "image_size": [16, 24], "num_tokens": 5}, {"main": (5, None)}, (24, 16)),
    "registers.RegisterEncoder": (
        {"input_size": [16, 24], "patch_size": 4, "num_tokens": 5, "width": 32, "depth": 2, "head_dim": 16},
        {"main": (5, None)},
        (24, 16),
    ),
    "rotary_latents.RotaryLatentEncoder": (
        {**VIT, "input_size": [16, 24], "num_tokens": 5, "halve_after": [0], "axes": [4, 4, 4], "span": 64},
        {"main": (5, None)},
        (24, 16),
    ),
    "vit_queries.QueryViTEncoder": (
        {**VIT, "image_size": [16, 24], "latent_side": 3, "branches": 2, "drop_path": 0.0},
        {"main": (9, (3, 3))},
        (24, 16),
    ),
    "tower.TowerEncoder": ({"tower": TOWER, "project": "tanh"}, {"main": (24, (4, 6))}, (3, 8)),
    "rotary_tower.RotaryTowerEncoder": (
        {"tower": TOWER, "width": 32, "depth": 1, "num_heads": 2},
        {"main": (24, (4, 6))},
        (3, 8),
    ),
    "tapped_tower.TappedTowerEncoder": (
        {"tower": {**TOWER, "final_norm": False}, "semantic_layer": 2, "pixel_layer": 1, "shortcut_layer": 1},
        {"semantic": (24, (4, 6)), "pixel": (24, (4, 6))},
        (3, 8),
    ),
    "parallel.ParallelEncoder": (
        {
            "encoders": {
                "semantic": {"_target_": f"{HOME}.tower.TowerEncoder", "tower": TOWER, "dim": 8, "project": "linear"},
                "pixel": {"_target_": f"{HOME}.cnn.CNNEncoder", "dim": 8, "z_channels": 8, **CNN},
            }
        },
        {"semantic": (24, (4, 6)), "pixel": (24, (4, 6))},
        (16, 18),
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_tokens_are_those_that_are_promised(name: str) -> None:
    settings, expected, refused = ENCODERS[name]
    dim = {} if "parallel" in name else {"dim": 8}
    encoder = build({"_target_": f"{HOME}.{name}", **settings, **dim}, key="e").train()
    for parameter in encoder.parameters():  # what starts at zero would pass no gradient
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    latents, shapes = encoder(torch.randn(2, 3, 16, 24)), encoder.stream_shapes((16, 24))
    widths = encoder.dim if isinstance(encoder.dim, dict) else {"main": encoder.dim}
    assert set(widths) == set(latents) == set(shapes) == set(expected)
    for stream, (tokens, grid) in expected.items():
        assert (shapes[stream].num_tokens, shapes[stream].grid) == (tokens, grid)
        assert latents[stream].grid == grid
        assert latents[stream].x_BND.shape == (2, tokens, 8) == (2, tokens, widths[stream])
    sum((stream.x_BND * torch.randn_like(stream.x_BND)).sum() for stream in latents.values()).backward()
    idle = [key for key, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle, idle
    with pytest.raises(ValueError):
        encoder.stream_shapes(refused)


VIT_OF_32 = {**VIT, "image_size": 32}
REFUSED = [
    ("cnn.CNNEncoder", "attention_levels", {**CNN, "attention_levels": [3]}),
    ("cnn.CNNEncoder", "channels", {**CNN, "channels": 33}),
    ("cnn_movq.CNNMoVQEncoder", "z_channels", {**CNN, "z_channels": 7}),
    ("cnn_qformer.CNNQFormerEncoder", "channel_multipliers", {**CNN, "input_size": [16, 18], "num_tokens": 8}),
    ("cnn_qformer.CNNQFormerEncoder", "num_tokens", {**CNN, "input_size": [16, 16], "num_tokens": 7}),
    ("latent_vit.LatentViTEncoder", "num_tokens", {**VIT_OF_32, "num_tokens": 0}),
    ("latent_vit.LatentViTEncoder", "patch_size", {**VIT_OF_32, "image_size": [32, 30]}),
    ("registers.RegisterEncoder", "patch_size", {"input_size": [32, 30], "patch_size": 4}),
    ("rotary_latents.RotaryLatentEncoder", "patch_size", {**VIT, "input_size": [32, 28], "axes": [4, 4, 4]}),
    ("rotary_latents.RotaryLatentEncoder", "axes", {**VIT, "input_size": [32, 32], "axes": [4, 4, 2]}),
    ("rotary_latents.RotaryLatentEncoder", "halve_after", {**VIT, "input_size": [32, 32], "axes": [4, 4, 4]}),
    ("vit_queries.QueryViTEncoder", "branches", {**VIT_OF_32, "branches": 3}),
    ("tower.TowerEncoder", "dim", {"tower": TOWER}),
    ("tower.TowerEncoder", "project", {"tower": TOWER, "project": "relu"}),
    ("tapped_tower.TappedTowerEncoder", "pixel_layer", {"tower": TOWER, "semantic_layer": 2, "pixel_layer": 0}),
]


@pytest.mark.parametrize(("name", "key", "settings"), REFUSED)
def test_what_cannot_be_built_is_named(name: str, key: str, settings: dict[str, Any]) -> None:
    given = {} if key == "halve_after" or "halve_after" in settings else {"halve_after": [0]}
    given = given if "rotary_latents" in name else {}
    with pytest.raises(UserError, match=rf"^e\.{key}="):
        build({"_target_": f"{HOME}.{name}", "dim": 8, **settings, **given}, key="e")
