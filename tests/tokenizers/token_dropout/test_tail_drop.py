"""Tail drop: one length a batch, uniform, cut off; in use any length."""

import pytest
import torch

from imtok.common.types import Stream
from imtok.tokenizers.token_dropout.tail_drop import TailDrop


def lengths(drop: TailDrop, draws: int, tokens: int = 8) -> list[int]:
    return [drop({"main": Stream(torch.zeros(4, tokens, 2))})["main"].x_BND.shape[1] for _ in range(draws)]


def test_lengths_are_uniform_from_one_to_all() -> None:
    torch.manual_seed(0)
    counts = torch.bincount(torch.tensor(lengths(TailDrop().train(), 4000)), minlength=9)
    assert counts[0] == 0 and counts[1:].sum() == 4000
    assert float(((counts[1:] - 500) ** 2 / 500).sum()) < 24.3, "chi-squared, 7 degrees of freedom, p = 0.001"
    assert set(lengths(TailDrop(shortest=6).train(), 100)) == {6, 7, 8}


def test_what_is_left_is_the_head() -> None:
    codes = torch.randn(4, 8, 2, requires_grad=True)
    torch.manual_seed(1)
    shown = TailDrop().train()({"main": Stream(codes)})["main"]
    kept = shown.x_BND.shape[1]
    assert shown.mask_BN is None and torch.equal(shown.x_BND, codes[:, :kept]) and kept < 8
    shown.x_BND.sum().backward()
    assert (codes.grad[:, :kept] == 1).all() and (codes.grad[:, kept:] == 0).all()


def test_evaluation_shows_all() -> None:
    codes = {"main": Stream(torch.zeros(4, 8, 2))}
    assert TailDrop().eval()(codes) is codes


def test_draw_gives_one_length_to_the_batch() -> None:
    drawn = TailDrop().draw(5, 8, torch.device("cpu"))
    assert drawn.shape == (5,) and len(set(drawn.tolist())) == 1


def test_limits_and_masks() -> None:
    with pytest.raises(ValueError, match="shortest=0"):
        TailDrop(shortest=0)
    assert set(lengths(TailDrop(shortest=20).train(), 10)) == {8}, "no image has more"
    mask = torch.arange(8).expand(4, 8) < 2
    shown = TailDrop(shortest=1).train()({"main": Stream(torch.zeros(4, 8, 2), (2, 4), mask)})["main"]
    assert shown.grid is None and torch.equal(shown.mask_BN, mask[:, : shown.x_BND.shape[1]])
