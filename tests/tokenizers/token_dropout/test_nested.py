"""Lengths that nested dropout draws."""

import pytest
import torch

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.common.types import Stream
from imtok.tokenizers.token_dropout.nested import NestedDropout, next_power_of_two

CPU = torch.device("cpu")


def shares(dropout: NestedDropout, num_tokens: int, draws: int = 40000) -> dict[int, float]:
    torch.manual_seed(0)
    lengths, counts = dropout.draw(draws, num_tokens, CPU).unique(return_counts=True)
    return dict(zip(lengths.tolist(), (counts / draws).tolist(), strict=True))


def test_uniform() -> None:
    assert shares(NestedDropout(), 10) == pytest.approx(dict.fromkeys(range(1, 11), 0.1), abs=0.01)


def test_powers_of_two_and_all() -> None:
    assert shares(NestedDropout(lengths="power_of_two"), 16) == pytest.approx(
        dict.fromkeys([1, 2, 4, 8, 16], 0.2), abs=0.01
    )
    assert set(shares(NestedDropout(lengths="power_of_two"), 12)) == {1, 2, 4, 8, 12}


def test_uniform_rounded_up() -> None:
    found = shares(NestedDropout(lengths="uniform_power_of_two"), 16)
    assert found == pytest.approx({1: 1 / 16, 2: 1 / 16, 4: 2 / 16, 8: 4 / 16, 16: 8 / 16}, abs=0.01)
    assert max(shares(NestedDropout(lengths="uniform_power_of_two"), 12)) == 12


def test_weighted() -> None:
    dropout = NestedDropout(lengths=[4, 8, 16], weights=[1, 2, 5])
    assert shares(dropout, 16) == pytest.approx({4: 1 / 8, 8: 2 / 8, 16: 5 / 8}, abs=0.01)
    assert shares(NestedDropout(lengths=[4, 8]), 16) == pytest.approx({4: 0.5, 8: 0.5}, abs=0.01)


def test_a_length_a_sample_in_training_only() -> None:
    codes = {"main": Stream(torch.zeros(64, 8, 2))}
    assert len(NestedDropout().train()(codes)["main"].mask_BN.sum(1).unique()) > 4
    assert NestedDropout().eval()(codes)["main"].mask_BN is None


def test_next_power_of_two() -> None:
    assert next_power_of_two(torch.tensor([1, 2, 3, 4, 5, 255, 256, 257])).tolist() == [1, 2, 4, 4, 8, 256, 256, 512]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lengths": []}, "lengths="),
        ({"lengths": [0, 4]}, "lengths="),
        ({"lengths": [4, 8], "weights": [1.0]}, "weights="),
        ({"weights": [1.0]}, "weights="),
    ],
)
def test_nonsense_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        NestedDropout(**settings)


def test_an_unknown_name_lists_the_known_ones() -> None:
    target = "imtok.tokenizers.token_dropout.nested.NestedDropout"
    with pytest.raises(UserError, match=r"^t\.lengths=even: .* one of uniform, power_of_two"):
        build({"_target_": target, "lengths": "even"}, key="t")


def test_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tokenizer\.token_dropout\.lengths"):
        NestedDropout(lengths=[4, 32]).draw(2, 16, CPU)


def test_settings_at_their_limits() -> None:
    assert set(shares(NestedDropout(lengths=[1, 16], weights=[0, 2]), 16)) == {16}
    for weights in ([0, 0], [-1, 2]):
        with pytest.raises(ValueError, match="weights="):
            NestedDropout(lengths=[1, 2], weights=weights)
