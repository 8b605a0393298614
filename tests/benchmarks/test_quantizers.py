"""The command's own mechanics on a few tokens: what it measures is not held to a bar here."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from imtok.benchmarks.quantizer_cases import CASES, make_step
from imtok.benchmarks.quantizers import peak_bytes, reset_peak, run
from imtok.common.errors import UserError
from imtok.tokenizers.quantizers.ibq import IBQ


@pytest.mark.slow  # peak memory is that of two more processes
def test_prints_both_sides_and_their_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["grouped128", "--tokens", "32", "--rounds", "2", "--threads", "1", "--json", str(tmp_path / "rows.json")]
    assert run(words) == 0
    printed = capsys.readouterr().out
    assert "imtok" in printed and "library" in printed and "times as fast at 32 tokens" in printed
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    ours, library = row["sides"]
    assert len(ours["seconds"]) == len(library["seconds"]) == len(row["ratios"]) == 2
    assert 0 < ours["mebibytes"] < 200  # of a process of its own
    assert row["ratios"][0] == pytest.approx(library["seconds"][0] / ours["seconds"][0])


def test_unknown_case_is_one_line() -> None:
    with pytest.raises(UserError, match=r"no case 'lfq81'.*lfq18"):
        run(["lfq81"])


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if not case.slow])
def test_both_sides_of_a_case_run(name: str) -> None:
    for side in ("imtok", "library"):
        make_step(CASES[name], side, tokens=16, device=torch.device("cpu"), dtype="float32", compiled=False)()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lfq14", "vq16k", "ibq18", "grouped128"])
def test_a_compiled_step_says_the_same(name: str) -> None:
    """Gradients of a compiled step, over bf16 vectors too; small codebooks, the code is the same."""
    case = CASES[name]
    small = replace(case, ours=lambda: IBQ(dim=256, codebook_size=512)) if name == "ibq18" else case
    gradients = []
    for compiled in (False, True):
        kinds = {"device": torch.device("cpu"), "dtype": "bfloat16", "compiled": compiled}
        step = make_step(small, "imtok", tokens=32, **kinds)
        step()
        step()
        gradients.append(step.z.grad.float())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=2e-2, atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
def test_peak_sees_memory_that_is_gone_again() -> None:
    before = reset_peak()
    held = torch.ones(2**24)  # 64 MiB
    del held
    assert 60 < (peak_bytes() - before) / 2**20 < 200
