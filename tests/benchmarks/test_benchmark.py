"""Benchmarks run at tiny sizes and print their fields; no test asserts a time."""

import time

import pytest

from imtok.benchmarks import update as benchmark_train_module
from imtok.benchmarks.timing import interleaved, ratio
from imtok.benchmarks.update import benchmark_train
from imtok.common.errors import UserError
from imtok.scripts.benchmark import main


def test_train_with_gan(capsys):
    words = ["experiment=quickstart", "debug=tiny", "adversary=patchgan", "rounds=2", "compare=true"]
    assert main(["train", *words]) == 0
    said = capsys.readouterr().out
    for field in ("whole update", "bare modules", "whole / bare", "fp32 / bf16 + channels_last", "with GAN"):
        assert field in said


def test_the_bf16_arm_waits_for_hardware_that_is_fast_in_it(capsys, monkeypatch):
    for fast in (False, True):
        monkeypatch.setattr(benchmark_train_module, "has_matrix_units", lambda precision, device, fast=fast: fast)
        result = benchmark_train({"rounds": "1", "precision": "fp32"}, ["experiment=quickstart", "debug=tiny"])
        assert ("bare, bf16 + channels_last" in result["seconds"]) is fast
        assert ("bf16 arm left out" in capsys.readouterr().err) is not fast
    with pytest.raises(UserError, match="compare=perhaps: expected auto, true or false"):
        benchmark_train({"compare": "perhaps"}, ["experiment=quickstart", "debug=tiny"])


def test_train_counts_rounds_and_leaves_the_first_out():
    settings = {"rounds": "3", "compare": "false"}
    result = benchmark_train(settings, ["experiment=quickstart", "debug=tiny"])
    assert {name: len(values) for name, values in result["seconds"].items()} == {"whole update": 3, "bare modules": 3}


@pytest.mark.slow
def test_two_processes_count_what_they_reduce(capfd):
    words = ["experiment=quickstart", "debug=tiny", "adversary=patchgan", "processes=2", "rounds=1"]
    assert main(["train", *words]) == 0
    said = capfd.readouterr().out
    assert "2 processes (gloo), batch 2 of" in said and "reduced / alone" in said
    for network in ("generator", "adversary"):
        (line,) = [line for line in said.splitlines() if line.startswith(f"  {network} reduced")]
        sent, _, gradients = line.split("reduced")[1].partition(" MiB in ")
        assert float(sent) == float(gradients.split("(")[1].split(" MiB")[0]) > 0


def test_processes_are_for_train():
    with pytest.raises(UserError, match="processes=2: benchmark train alone"):
        main(["evaluate", "processes=2"])


def test_evaluate(capsys):
    assert main(["evaluate", "debug=tiny", "rounds=1", "images=4"]) == 0
    said = capsys.readouterr().out
    assert "whole evaluate" in said and "bare forwards" in said and "whole / bare" in said


def test_loader_makes_its_own_folder(capsys):
    assert main(["loader", "--images", "16", "size=32", "rounds=1"]) == 0
    assert "images per core-second" in capsys.readouterr().out


def test_quantizers_are_a_benchmark_with_flags_of_its_own(capsys):
    words = ["grouped128", "--tokens", "16", "--rounds", "1", "--threads", "1", "--dtype", "bf16", "--no-memory"]
    assert main(["quantizers", *words]) == 0
    said = capsys.readouterr().out
    assert "16 tokens, bfloat16" in said and "imtok" in said and "library" in said
    with pytest.raises(SystemExit):
        main(["quantizers", "--help"])
    said = capsys.readouterr().out
    assert "--compile" in said and "lfq18" in said


def test_interleaved_takes_turns():
    order = []
    arms = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    seconds = interleaved(arms, rounds=2, clock=time.perf_counter)
    assert order == ["a", "b"] * 3 and all(len(values) == 2 for values in seconds.values())
    assert ratio([2.0, 6.0, 4.0], [1.0, 2.0, 4.0]) == {"median": 2.0, "min": 1.0, "max": 3.0}


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="did you mean 'train'"):
        main(["trian"])
    with pytest.raises(UserError, match="which experiment"):
        main(["train"])
    with pytest.raises(UserError, match="--rounds: 'none' is not a whole number"):
        main(["loader", "rounds=none"])
