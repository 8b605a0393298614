"""Qwen2-VL's tower: the sizes it sees, and its tokens against a loop over patches of a tower without blocks."""

import pytest
import torch
import torch.nn.functional as F

from imtok.common.pixels import CLIP_DEVIATION, CLIP_MEAN
from imtok.tokenizers.towers.base import Standardize
from imtok.tokenizers.towers.qwen2_vl import PUBLISHED_SIZES, Qwen2VLTower
from imtok.tokenizers.towers.vit import ViTTower
from imtok.tokenizers.towers.vitamin import ViTaminTower

SIZES = {"width": 12, "inner_width": 16, "depth": 0, "num_heads": 2, "patch_size": 4, "merge": 2, "frames": 2}


def test_sides_are_multiples_of_what_is_merged() -> None:
    tower = Qwen2VLTower(**SIZES)
    assert tower.seen_size((31, 17)) == (24, 16) and tower.grid((31, 17)) == (3, 2)
    assert tower.seen_size((5, 8)) == (8, 8), "at least one token"
    published = Qwen2VLTower(**(SIZES | {"patch_size": 14}))
    for size, seen in PUBLISHED_SIZES.items():
        assert published.seen_size(size) == seen and all(side % 28 == 0 for side in seen)
        assert PUBLISHED_SIZES[size[::-1]] == seen[::-1]
        assert (
            sum(s <= g for s, g in zip(seen, size, strict=True)) >= 1 and seen[0] * seen[1] <= size[0] * size[1] * 1.03
        )
    assert published.seen_size((300, 57)) == (280, 56)


@torch.no_grad()
def test_a_token_is_the_mlp_of_its_four_patches() -> None:
    tower = Qwen2VLTower(**SIZES).eval()
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    images = torch.rand(2, 3, 8, 16) * 2 - 1
    mean, deviation = (torch.tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_DEVIATION))
    seen = ((images + 1) / 2 - mean) / deviation
    kernel = tower.patch_embed["proj"].weight.sum(dim=2)  # a video that stands still
    patches = F.conv2d(seen, kernel, stride=4)
    norm, mlp = tower.merger["ln_q"], tower.merger["mlp"]
    expected = []
    for column in (0, 2):
        four = [patches[:, :, row, column + right] for row in (0, 1) for right in (0, 1)]
        expected.append(mlp(torch.cat([norm(patch) for patch in four], dim=1)))
    plain = torch.stack(expected, dim=1)
    torch.testing.assert_close(tower(images), F.layer_norm(plain, (12,), eps=1e-6), atol=1e-5, rtol=1e-4)
    tower.out_norm = torch.nn.Identity()
    torch.testing.assert_close(tower(images), plain, atol=1e-5, rtol=1e-4)


def test_it_trains_only_where_that_is_said() -> None:
    frozen, trained = (Qwen2VLTower(**(SIZES | {"depth": 1}), trained=trained) for trained in (False, True))
    assert not frozen.train().training and trained.train().training
    assert not any(p.requires_grad for p in frozen.parameters()) and all(p.requires_grad for p in trained.parameters())
    assert frozen.frozen_from_nothing and not trained.frozen_from_nothing


def test_first_weights_of_towers() -> None:
    tower = ViTTower(image_size=32, patch_size=8, width=256, depth=0, num_heads=4, class_token=True)
    assert float(tower.pos_embed.detach().std()) == pytest.approx(1 / 16, rel=0.06)
    assert tower.pos_embed.shape == (1, 17, 256) and float(tower.cls_token.detach().std()) == pytest.approx(
        1e-6, rel=0.2
    )
    assert ViTTower(image_size=32, width=8, depth=1, num_heads=2).blocks[0].mlp.fc1.out_features == 32
    sizes = {
        "image_size": [64, 32],
        "width": 64,
        "depth": 1,
        "num_heads": 2,
        "conv_widths": [8, 16],
        "conv_depths": [1, 1],
    }
    found = {kind: ViTaminTower(**sizes, positions=kind) for kind in ("grid", "constant", "none")}
    assert found["grid"].pos_embed.shape == (1, 8, 64) and found["none"].pos_embed is None
    assert float(found["grid"].pos_embed.detach().std()) == pytest.approx(0.02, rel=0.15)
    assert found["constant"].pos_embed.shape == (1, 1, 64) and not found["constant"].pos_embed.any()
    for tower in found.values():
        assert tower(torch.zeros(1, 3, 32, 48)).shape == (1, 6, 64)
    for wrong in ((16, 15), (15, 16), (0, 16)):
        with pytest.raises(ValueError, match="multiples of 16"):
            found["grid"].grid(wrong)


def test_statistics_that_change_nothing() -> None:
    x = torch.randn(1, 3, 2, 2)
    assert torch.equal(Standardize("none")(x), x) and torch.equal(Standardize("half")(x), x)
    with pytest.raises(ValueError, match="statistics=other: known: half, clip, imagenet, none"):
        Standardize("other")
