"""Who sees whom, tried by changing a token and looking whose output moves."""

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from imtok.layers.level_attention import LevelMask, attend, prefix_causal


def outputs(x: torch.Tensor, mask: LevelMask | None) -> torch.Tensor:
    return attend(x, x, x, mask=mask, scale=0.5)


@pytest.mark.parametrize("levels", [[0, 0, 0, 1, 2, 3], [0, 1, 1, 2, 2, 2], [2, 0, 1, 0, 2, 1]])
def test_only_tokens_of_no_lower_level_are_moved(levels: list[int]) -> None:
    x = torch.randn(1, 2, len(levels), 16)
    before = outputs(x, mask := LevelMask(levels=levels))
    for changed, level in enumerate(levels):
        other = x.clone()
        other[:, :, changed] += 1.0
        moved = (outputs(other, mask) != before).any(dim=(0, 1, 3))
        assert moved.tolist() == [theirs >= level for theirs in levels]


def test_prefix_causal_is_full_over_the_prefix_and_causal_behind() -> None:
    seen = prefix_causal(2, 3).dense_NN
    expected = torch.tensor(
        [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=torch.bool
    )
    assert torch.equal(seen, expected)


def test_flex_attention_is_given_the_same_mask() -> None:
    mask = prefix_causal(70, 60)
    q, k, v = torch.randn(3, 2, 2, 130, 16).unbind()
    flexed = flex_attention(q, k, v, block_mask=mask.blocks(), scale=0.5)
    torch.testing.assert_close(flexed, attend(q, k, v, mask=mask, scale=0.5), atol=1e-5, rtol=1e-5)


def test_without_a_mask_all_see_all() -> None:
    x = torch.randn(1, 1, 4, 8)
    other = x.clone()
    other[:, :, 3] += 1
    assert (outputs(other, None) != outputs(x, None)).any(dim=(0, 1, 3)).all()
