"""Encoders of two streams: which layer and which picture each stream sees."""

import pytest
import torch
import torch.nn.functional as F

from imtok.tokenizers.encoders.cnn import CNNEncoder
from imtok.tokenizers.encoders.tapped_tower import TappedTowerEncoder
from imtok.tokenizers.encoders.tower import TowerEncoder
from imtok.tokenizers.encoders.two_towers import TwoTowerEncoder
from imtok.tokenizers.towers.vit import ViTTower

SMALL = {"image_size": 38, "patch_size": 9, "width": 32, "depth": 3, "num_heads": 4}
CNN = {"dim": 4, "channels": 32, "channel_multipliers": [1, 1, 1], "blocks_per_level": 1, "z_channels": 8}


def two_towers(same_grid: bool) -> TwoTowerEncoder:
    semantic = TowerEncoder(tower=ViTTower(**SMALL), dim=6, project="tanh")
    return TwoTowerEncoder(semantic=semantic, pixel=CNNEncoder(**CNN), same_grid=same_grid).eval()


def test_the_pixel_side_sees_the_picture_on_the_semantic_grid() -> None:
    encoder, images = two_towers(same_grid=True), torch.randn(2, 3, 38, 38)
    out, shapes = encoder(images), encoder.stream_shapes((38, 38))
    assert encoder.dim == {"semantic": 6, "pixel": 4}
    for name, stream in out.items():
        assert stream.grid == shapes[name].grid == (4, 4)
        assert stream.x_BND.shape == (2, 16, encoder.dim[name])
    scaled = F.interpolate(images, (16, 16), mode="bicubic")
    torch.testing.assert_close(out["pixel"].x_BND, encoder.pixel(scaled)["main"].x_BND)


def test_grids_may_differ() -> None:
    encoder = two_towers(same_grid=False)
    out = encoder(torch.randn(1, 3, 40, 40))
    assert (out["semantic"].grid, out["pixel"].grid) == ((4, 4), (10, 10))
    with pytest.raises(ValueError, match="multiples of 4"):
        encoder.stream_shapes((38, 38))


def test_taps_are_those_layers() -> None:
    tower = ViTTower(**SMALL)
    encoder = TappedTowerEncoder(
        tower=tower, dim=8, semantic_layer=3, pixel_layer=2, shortcut_layer=1, shortcut_weight=0.5
    ).eval()
    images = torch.randn(1, 3, 38, 38)
    before = encoder(images)
    expected = encoder.to_pixel(tower.tapped(images, [2])[0]) + 0.5 * encoder.to_shortcut(tower.tapped(images, [1])[0])
    torch.testing.assert_close(before["pixel"].x_BND, expected)
    with torch.no_grad():
        tower.blocks[2].mlp.fc2.bias += 1
    after = encoder(images)
    assert torch.equal(before["pixel"].x_BND, after["pixel"].x_BND)
    assert not torch.equal(before["semantic"].x_BND, after["semantic"].x_BND)
    with pytest.raises(ValueError, match="semantic_layer=4: the tower has blocks 1 to 3"):
        TappedTowerEncoder(tower=tower, semantic_layer=4)


def test_a_frozen_tower_stays_in_eval_and_gets_no_gradient() -> None:
    from imtok.tokenizers.towers.qwen2_vl import Qwen2VLTower

    tower = Qwen2VLTower(width=24, inner_width=32, depth=1, num_heads=2).train()
    assert not tower.training and not any(p.requires_grad for p in tower.parameters())
    assert tower.grid((256, 256)) == (9, 9) and tower.grid((512, 384)) == (16, 12) and tower.grid((100, 20)) == (3, 1)
    trained = Qwen2VLTower(width=24, inner_width=32, depth=1, num_heads=2, trained=True).train()
    assert trained.training and all(p.requires_grad for p in trained.parameters())
