"""Sharded runs in two gloo processes: losses, weights and files are those of DDP; a run that goes on is exact."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from imtok.common.errors import UserError
from imtok.training.checkpoint import read
from imtok.training.factory import build_trainer
from imtok.training.settings import TrainerSettings

HERE = Path(__file__).parent
NAMES = ["plain", "fp16", "micro-batches", "frozen", "channels last", "recomputed"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the runs of sharded_processes.py."""
    folder = tmp_path_factory.mktemp("sharded")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launched = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GROUP_RANK": "0", "OMP_NUM_THREADS": "1"}
    launched |= {"TORCHELASTIC_RUN_ID": "test", "LOCAL_WORLD_SIZE": "2", "PYTHONPATH": str(HERE)}
    script = str(HERE / "sharded_processes.py")
    with (folder / "said").open("w") as said:
        words = [[sys.executable, script, str(rank), "2", str(folder)] for rank in (0, 1)]
        processes = [subprocess.Popen(w, env=os.environ | launched, stdout=said, stderr=said) for w in words]
        try:
            codes = [process.wait(timeout=400) for process in processes]
        finally:
            for process in processes:
                process.kill()
    lines = (folder / "said").read_text().splitlines()
    assert codes == [0, 0], "\n".join(line for line in lines if "Error" in line or "imtok" in line)
    return folder


@pytest.fixture(scope="module")
def ends(folder: Path) -> list[dict[str, Any]]:
    """By rank."""
    return [torch.load(folder / f"{rank}of2.pt", weights_only=False) for rank in (0, 1)]


def table(rows: list[str]) -> torch.Tensor:
    return torch.tensor([[float(v) if v else 0.0 for v in row.split(",")] for row in rows[1:]], dtype=torch.float64)


def assert_close(own: dict[str, torch.Tensor], other: dict[str, torch.Tensor], *, atol: float = 1e-6) -> None:
    assert own.keys() == other.keys() and own
    for name, value in own.items():
        torch.testing.assert_close(value, other[name], rtol=1e-5, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_losses_norms_and_weights_are_those_of_ddp(ends, name):
    ddp, sharded = (ends[0][f"{name} {strategy}"] for strategy in ("auto", "fsdp2"))
    assert sharded["rows"][0] == ddp["rows"][0] and "train/grad_norm" in ddp["rows"][0], "other columns"
    assert table(ddp["rows"]).shape[0] == 4 and sharded["skipped"] == ddp["skipped"]
    half = name == "fp16"  # its sums round differently in another order
    torch.testing.assert_close(table(sharded["rows"]), table(ddp["rows"]), rtol=1e-2 if half else 1e-5, atol=1e-5)
    for what in ("state", "ema"):
        assert_close(sharded[what], ddp[what], atol=1e-3 if half else 1e-6)
    assert sharded["scales"] == ddp["scales"] == ends[1][f"{name} fsdp2"]["scales"] and bool(ddp["scales"]) == half


@pytest.mark.slow
def test_a_process_holds_its_share(ends):
    held = [end["plain fsdp2"]["held"] for end in ends]
    whole = ends[0]["plain fsdp2"]["all"]
    assert all(end["plain auto"]["held"] == whole for end in ends)
    assert sum(held) < 1.05 * whole and max(held) < 0.55 * whole  # a twentieth is not in blocks


@pytest.mark.slow
def test_a_run_that_goes_on_ends_where_the_unbroken_one_does(ends):
    again, whole = ends[0]["again"], ends[0]["plain fsdp2"]
    assert [sorted(row.split(",")) for row in again["rows"][1:]] == [sorted(r.split(",")) for r in whole["rows"][3:]]
    for what in ("state", "ema"):
        for name, value in whole[what].items():
            assert torch.equal(again[what][name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["file to shards", "shards to file"])
def test_a_run_may_go_on_with_the_other_kind_of_processes(ends, name):
    assert_close(ends[0][name]["state"], ends[0]["plain auto"]["state"])
    assert_close(ends[0][name]["ema"], ends[0]["plain auto"]["ema"])


@pytest.mark.slow
def test_a_folder_holds_what_the_file_of_ddp_does_and_serves_one_process(folder, make_run):
    one, other = (read(folder / f"plain {s}" / "checkpoints" / "update_00000002.ckpt") for s in ("auto", "fsdp2"))
    assert one.keys() == other.keys() and other["update"] == 2
    assert_close(other["tokenizer"], one["tokenizer"])
    assert_close(other["ema"]["parameters"], one["ema"]["parameters"])
    for name in ("generator", "adversary"):
        ours, theirs = (state["steppers"][name]["optimizer"] for state in (other, one))
        assert [g["params"] for g in ours["param_groups"]] == [g["params"] for g in theirs["param_groups"]]
        assert len(theirs["param_groups"]) == 2 and ours["state"].keys() == theirs["state"].keys()
        for number, values in theirs["state"].items():
            assert_close(ours["state"][number], values)
    sys.path.insert(0, str(HERE))
    from sharded_processes import GAN, SETTINGS

    run = make_run("one", ckpt=folder / "plain fsdp2" / "checkpoints" / "last.ckpt", **(SETTINGS | {"max_updates": 5}))
    assert run.fit().training.update == 5 and GAN["start"] == 1


@pytest.mark.slow
def test_a_bad_number_on_one_process_leaves_the_update_out_on_both(ends):
    assert [end["bad"]["skipped"] for end in ends] == [1, 1]
    for name, value in ends[0]["bad"]["state"].items():
        assert torch.isfinite(value).all(), name


@pytest.mark.slow
def test_a_process_that_cannot_write_costs_the_newest_folder_alone(ends, folder):
    full = ends[0]["disk of one process full"]
    assert full["failed"] == 1 and full["checkpoints"] == ["last.ckpt", "update_00000002.ckpt"]
    assert read(folder / "disk of one process full" / "checkpoints" / "last.ckpt")["update"] == 2
    assert "the checkpoint of update 4 could not be written (that of update 2 is good)" in (folder / "said").read_text()


@pytest.mark.parametrize(
    ("settings", "world", "said"),
    [
        ({}, "1", r"^trainer.strategy=fsdp2: one process has nothing to share"),
        ({"compile": True}, "2", r"^trainer.compile=true: not with trainer.strategy=fsdp2"),
        ({"accelerator": "mps"}, "2", r"^trainer.strategy=fsdp2: not on mps"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path, monkeypatch, settings, world, said):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, world)
    given = {"max_updates": 1, "accelerator": "cpu", "precision": "fp32", "strategy": "fsdp2"} | settings
    with pytest.raises(UserError, match=said):
        build_trainer(TrainerSettings(**given), loggers=[], callbacks=[], folder=tmp_path)
