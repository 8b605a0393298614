"""Two gloo processes: what they reduce in an update, and that they end where one process does with the joined batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from imtok.losses.base import LossTerm
from imtok.losses.total import WeightedLosses
from imtok.training.ddp import SEARCHING, may_vary

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two_processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GROUP_RANK": "0", "OMP_NUM_THREADS": "1"}
    environment = os.environ | launched | {"PYTHONPATH": str(HERE)}
    processes = {}
    for name, rank, world in (("first", 0, 2), ("second", 1, 2), ("joined", 0, 1)):
        words = [sys.executable, str(HERE / "two_processes.py"), str(rank), str(world), str(folder)]
        own = environment | ({"TORCHELASTIC_RUN_ID": "test", "LOCAL_WORLD_SIZE": "2"} if world > 1 else {})
        processes[name] = subprocess.Popen(words, env=own, stderr=subprocess.PIPE, text=True)
    try:
        errors = {name: process.communicate(timeout=300)[1] for name, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
    for name, process in processes.items():
        assert process.returncode == 0, f"{name}: {errors[name][-3000:]}"
    files = {"first": "0of2", "second": "1of2", "joined": "0of1"}
    return {name: torch.load(folder / f"{file}.pt", weights_only=False) for name, file in files.items()}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["whole", "in micro-batches", "adaptive", "compiled"])
def test_bytes_reduced_are_those_of_the_gradients(results, how):
    """The first update sees which parameters have one; from then on each network's are reduced once, and one number
    more: finite, and asked to stop."""
    for who in ("first", "second"):
        found = results[who][how]
        assert set(found["sizes"]) == {"generator", "adversary"} and min(found["sizes"].values()) > 1000
        for update in range(1, 5):
            assert dict(found["bytes"][update]) == found["sizes"], f"update {update}"
        # The adaptive weight is one number more that all processes share.
        assert [dict(n) for n in found["others"][1:4]] == [
            {"all_reduce": 2 if how in ("adaptive", "compiled") else 1}
        ] * 3
        for name, value in found["state"].items():
            assert torch.equal(value, results["first"][how]["state"][name]), name


@pytest.mark.slow
@pytest.mark.parametrize("how", ["whole", "in micro-batches"])
def test_two_processes_end_where_one_does_with_the_joined_batch(results, how):
    first, joined = (results[who][how]["state"] for who in ("first", "joined"))
    for name, value in joined.items():
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_compiled_parts_end_where_the_others_do(results):
    compiled, plain = (results["first"][how]["state"] for how in ("compiled", "adaptive"))
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_a_parameter_that_nothing_uses_stands_still(results):
    for who in ("first", "second"):
        assert results[who]["never used"] == {"error": "", "seen": [1.0] * 4, "search": True}


@pytest.mark.slow
def test_a_parameter_that_is_no_longer_used_is_an_error_and_not_another_update(results):
    for who in ("first", "second"):
        found = results[who]["used at first"]
        assert len(found["seen"]) == 3 and found["seen"][2] != 1.0
        assert "tokenizer.decoder.extra had a gradient in the first update" in found["error"]
        assert found["error"].endswith(f"set trainer.strategy={SEARCHING}")


class Term(LossTerm):
    def __init__(self, parameter: bool) -> None:
        super().__init__()
        if parameter:
            self.scale = nn.Parameter(torch.ones(()))

    def forward(self, batch, output):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("weight", "parameter", "varies"),
    [
        (1.0, True, False),
        (0.0, True, False),
        ({"start": 0.0, "end": 1.0, "updates": 0, "after": 5}, True, True),
        ({"start": 1.0, "end": -1.0, "updates": 4}, True, True),
        ({"start": 0.5, "end": 1.0, "updates": 4}, True, False),
        ({"start": 0.0, "end": 1.0, "updates": 4}, False, False),
    ],
)
def test_a_weight_that_is_0_for_a_while_changes_which_parameters_are_used(monkeypatch, weight, parameter, varies):
    monkeypatch.setattr(Term, "__module__", "imtok.losses.someterm")
    assert may_vary(WeightedLosses(terms={"a": Term(parameter)}, weights={"a": weight})) is varies


def test_another_s_class_may_use_its_parameters_as_it_likes():
    class Own(nn.Linear):
        pass

    assert may_vary(nn.Sequential(Own(1, 1))) and not may_vary(nn.Sequential(nn.Linear(1, 1)))
