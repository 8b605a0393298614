"""Three generators: torch's, numpy's and Python's."""

import random

import numpy as np
import pytest
import torch

from imtok.training.randomness import own_randomness, rng_state, seed_everything, set_rng_state


def draw() -> list[float]:
    return [float(torch.rand(())), float(np.random.rand()), float(np.random.randn()), random.random(), random.gauss()]


def test_a_saved_state_goes_on_with_the_same_numbers_in_each(tmp_path):
    seed_everything(3)
    draw()  # the second normal number of numpy and Python is kept for the next call
    torch.save(rng_state(), tmp_path / "state.pt")
    expected = draw()
    seed_everything(4)
    set_rng_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == expected


@pytest.mark.parametrize("seed", [0, 2**32 + 5])
def test_a_seed_sets_all_of_them(seed):
    seed_everything(seed)
    first = draw()
    draw()
    seed_everything(seed)
    assert draw() == first
    seed_everything(seed + 1)
    assert all(a != b for a, b in zip(draw(), first, strict=True))
    random.seed(seed), np.random.seed(seed % 2**32), torch.manual_seed(seed)
    assert draw() == first


def test_own_randomness_is_not_noticed_outside_even_after_an_error():
    seed_everything(1)
    inside = draw()
    seed_everything(2)
    expected = draw()
    seed_everything(2)
    with pytest.raises(RuntimeError), own_randomness(1):  # noqa: PT012
        assert draw() == inside
        raise RuntimeError
    assert draw() == expected


def test_a_gpu_s_generator_where_there_is_one(monkeypatch):
    state = rng_state()
    given = []
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda s: given.append(s))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    set_rng_state(state | {"cuda": None})  # saved on a machine without
    assert given == []
    set_rng_state(state | {"cuda": torch.arange(3)})
    assert [s.tolist() for s in given] == [[0, 1, 2]]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    set_rng_state(state | {"cuda": torch.arange(3)})
    assert len(given) == 1
