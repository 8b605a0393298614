"""The text tower is open_clip's: CLIP's own sizes by default, the sizes it is given otherwise."""

import inspect

import open_clip
import torch

from imtok.losses.teachers.text_tower import TextTower


def test_defaults_are_the_text_tower_of_clip_vit_b_16() -> None:
    given = {name: p.default for name, p in inspect.signature(TextTower).parameters.items()}
    published = open_clip.get_model_config("ViT-B-16")
    sizes = {name: published["text_cfg"][name] for name in ("width", "layers", "heads")}
    assert {name: given[name] for name in sizes} | {"dim": given["dim"]} == sizes | {"dim": published["embed_dim"]}


def test_a_small_tower_has_its_sizes_and_clips_77_tokens() -> None:
    tower = TextTower(width=12, layers=2, heads=3, dim=5)
    blocks = tower.network.transformer.resblocks
    assert [block.attn.num_heads for block in blocks] == [3, 3]
    assert tower(["a red ring", "a star"]).shape == (2, 5)
    assert tower.network.positional_embedding.shape == (77, 12)
    assert tower.caption_numbers(["a star"]).shape == (1, 77)


def test_a_frozen_tower_keeps_no_graph_and_a_trained_one_does() -> None:
    sizes = {"width": 8, "layers": 1, "heads": 2, "dim": 4, "max_tokens": 8}
    assert TextTower(**sizes)(["a star"]).requires_grad
    assert not TextTower(**sizes, trainable=False)(["a star"]).requires_grad
    with torch.no_grad():
        assert not TextTower(**sizes)(["a star"]).requires_grad
