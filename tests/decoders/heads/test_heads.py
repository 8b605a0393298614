"""Heads read one stream's codes; a linear head is a matrix, a transformer's tokens see each other."""

import pytest
import torch

from imtok.common.types import Stream
from imtok.decoders.heads.mlp import MLPHead
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
