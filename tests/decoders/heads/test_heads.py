"""Heads read one stream's codes; a linear head is a matrix, a transformer's tokens see each other."""

import pytest
import torch

from imtok.common.types import Stream
from imtok.decoders.heads.feature_vit import FeatureViTHead
from imtok.decoders.heads.mlp import MLPHead
from imtok.decoders.heads.tower_tail import from_timm
from imtok.decoders.heads.transformer import TransformerHead


def codes(**widths: int) -> dict[str, Stream]:
    return {name: Stream(torch.randn(2, 4, width), (2, 2)) for name, width in widths.items()}


def test_linear_is_a_matrix_and_mlp_works_token_by_token() -> None:
    given = codes(main=6)
    head = MLPHead(dim=6, out_dim=3, depth=1)
    (linear,) = head.layers
    torch.testing.assert_close(head(given), given["main"].x_BND @ linear.weight.T + linear.bias)
    deep = MLPHead(dim={"a": 6, "b": 2}, stream="b", out_dim=3, depth=3, hidden=5)
    given = codes(a=6, b=2)
    out = deep(given)
    given["b"].x_BND[:, 0] = 9
    assert torch.equal(deep(given)[:, 1:], out[:, 1:]) and not torch.equal(deep(given)[:, 0], out[:, 0])


def test_tokens_of_a_transformer_see_each_other() -> None:
    head = TransformerHead(dim=6, out_dim=3, width=8, depth=1, num_heads=2, num_tokens=4).eval()
    given = codes(main=6)
    out = head(given)
    assert out.shape == (2, 4, 3)
    given["main"].x_BND[:, 0] = 9
    assert not torch.equal(head(given)[:, 1:], out[:, 1:])


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"stream=null: the codes have a, b; name one"):
        MLPHead(dim={"a": 6, "b": 2})
    with pytest.raises(ValueError, match="stream=c"):
        TransformerHead(dim={"a": 6, "b": 2}, stream="c")
    with pytest.raises(ValueError, match="depth=0"):
        MLPHead(dim=6, depth=0)


def test_learned_positions_start_small() -> None:
    transformer = TransformerHead(dim=6, width=256, depth=1, num_heads=2, num_tokens=[4, 8])
    assert transformer.positions.shape == (1, 32, 256)
    assert float(transformer.positions.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert TransformerHead(dim=6, width=8, depth=1, num_heads=2).positions is None
    with pytest.raises(ValueError, match="num_heads=3: width=8"):
        TransformerHead(dim=6, width=8, num_heads=3)
    features = FeatureViTHead(dim=6, stream="main", grid=[4, 8], width=256, depth=1, num_heads=2)
    assert features.pos_embed.shape == (1, 33, 256)
    assert float(features.pos_embed.detach().std()) == pytest.approx(0.02, rel=0.05)
    assert float(features.cls_token.detach().std()) == pytest.approx(0.02, rel=0.2)


def test_positions_of_features_are_resampled_to_another_grid_and_kept_on_their_own() -> None:
    head = FeatureViTHead(dim=6, stream="main", out_dim=3, grid=2, width=8, depth=1, num_heads=2).eval()
    x = torch.randn(2, 4, 6)
    assert torch.equal(head({"main": Stream(x, (2, 2))}), head({"main": Stream(x)}))
    assert not torch.allclose(head({"main": Stream(x, (1, 4))}), head({"main": Stream(x)}))


def test_the_tail_of_a_published_tower_in_our_names() -> None:
    q, k, v = (torch.full((2, 2), float(n)) for n in range(3))
    state = {"blocks.25.a": q, "blocks.26.mlp.fc1.weight": k, "norm.weight": v, "patch_embed.proj.weight": q}
    state |= {"attn_pool.latent": q, "attn_pool.norm.weight": k, "attn_pool.mlp.fc1.weight": v}
    for kind in ("weight", "bias"):
        state |= {f"attn_pool.q.{kind}": q, f"attn_pool.kv.{kind}": torch.cat([k, v]), f"attn_pool.proj.{kind}": v}
    found = from_timm(state, 26)
    assert set(found) == {
        "blocks.-1.a", "blocks.0.mlp.fc1.weight", "norm.weight", "pool.probe", "pool.norm.weight",
        "pool.mlp.fc1.weight", "pool.attention.in_proj_weight", "pool.attention.in_proj_bias",
        "pool.attention.out_proj.weight", "pool.attention.out_proj.bias",
    }  # fmt: skip
    assert torch.equal(found["pool.attention.in_proj_weight"], torch.cat([q, k, v]))
    assert torch.equal(found["pool.attention.out_proj.bias"], v)
