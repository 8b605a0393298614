"""Whole runs from the command line, in processes of their own."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
TINY = [
    "debug=tiny",
    "adversary=patchgan",
    "callbacks=[codebook,validation,samples,checkpoint]",
    "evaluate_after=false",
    "trainer.threads=1",
]


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def train(*arguments: str, cwd: Path, code: int = 0) -> str:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd, env=environment())
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def without_notes(said: str) -> list[str]:
    return [line for line in said.strip().splitlines() if not line.startswith("imtok: note:")]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_run_leaves_what_it_should_and_is_not_overwritten(tmp_path):
    said = train(*TINY, "evaluate_after=true", "hydra.run.dir=here", cwd=tmp_path)
    folder = tmp_path / "here"
    assert without_notes(said)[-2:] == [
        f"imtok: tokenizer {folder / 'tokenizer'}",
        f"imtok: report {folder / 'report.html'}",
    ]
    names = "config.yaml overrides.yaml environment.json metrics.csv metrics.json report.md checkpoints/last.ckpt"
    for name in [*names.split(), "tokenizer/model.safetensors", "samples/update_00000001.png"]:
        assert (folder / name).is_file(), name
    facts = json.loads((folder / "tokenizer" / "config.json").read_text())["training"]
    assert (facts["update"], facts["weights"], facts["experiment"]) == (2, "ema", "quickstart")
    again = train(*TINY, "hydra.run.dir=here", cwd=tmp_path, code=1)
    assert len(without_notes(again)) == 1 and "ckpt_path=last goes on with it" in again
    longer = train("ckpt_path=last", "hydra.run.dir=here", "trainer.max_updates=3", cwd=tmp_path)
    assert f"tokenizer {folder / 'tokenizer'}" in longer
    assert [r["update"] for r in rows(folder)] == ["1", "2", "3"]


@pytest.mark.slow
def test_frozen_encoder_and_quantizer_fine_tune_the_decoder(tmp_path):
    """README's command; the quantizer's terms of `quickstart` go by themselves."""
    train(*TINY, "hydra.run.dir=first", cwd=tmp_path)
    words = ["init_from=first/tokenizer", "freeze=[encoder,quantizer]", "optimizer.lr=0.01", "hydra.run.dir=second"]
    said = train(*TINY, *words, cwd=tmp_path)
    assert "left out loss.codebook, loss.commit, loss.entropy, loss.kl: tokenizer.quantizer is frozen" in said
    before, after = (load_file(tmp_path / run / "tokenizer" / "model.safetensors") for run in ("first", "second"))
    changed = {key.split(".")[0] for key, value in after.items() if not torch.equal(value, before[key])}
    assert changed == {"decoder"}


@pytest.mark.slow
def test_all_loggers_write_without_a_network(tmp_path):
    pytest.importorskip("wandb")
    pytest.importorskip("tensorboard")
    words = ["logger=[csv,tensorboard,wandb]", "logger.wandb.offline=true", "hydra.run.dir=run"]
    train(*TINY, *words, cwd=tmp_path)
    assert len(rows(tmp_path / "run")) == 2
    assert list((tmp_path / "run").rglob("events.out.tfevents.*"))
    assert list((tmp_path / "run").rglob("*.wandb"))  # inside, what `wandb sync` sends


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_exactly(tmp_path, number):
    more = ["trainer.max_updates=12", "trainer.checkpoint_every=3", "trainer.validate_every=4", "trainer.ema.every=2"]
    train(*TINY, *more, "hydra.run.dir=whole", cwd=tmp_path)
    process = subprocess.Popen(
        command(*TINY, *more, "name=cut"), cwd=tmp_path, env=environment(), stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        found = list(tmp_path.glob("runs/cut/*/metrics.csv"))
        if found and len(rows(found[0].parent)) >= 5:
            break
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(timeout=60) == (-signal.SIGKILL if number == signal.SIGKILL else 128 + signal.SIGTERM)
    (folder,) = tmp_path.glob("runs/cut/*")
    said = train("ckpt_path=last", "name=cut", cwd=tmp_path)
    assert "going on with" in said
    assert rows(folder) == rows(tmp_path / "whole")
    weights = [torch.load(f / "checkpoints" / "last.ckpt") for f in (folder, tmp_path / "whole")]
    for part in ("tokenizer", "adversary"):
        for name, value in weights[0][part].items():
            assert torch.equal(value, weights[1][part][name]), name


@pytest.mark.slow
def test_two_processes_stay_equal(tmp_path):
    script = tmp_path / "watched.py"
    script.write_text(
        "import torch, os\n"
        "from imtok.training.module import TokenizerTraining\n"
        "def on_train_end(self):\n"
        "    state = {k: v.clone() for k, v in self.state_dict().items()}\n"
        "    torch.save({'state': state, 'samples': self.samples}, f\"rank{os.environ['RANK']}.pt\")\n"
        "TokenizerTraining.on_train_end = on_train_end\n"
        "from imtok.train import main\n"
        "main()\n"
    )
    arguments = [*TINY, "trainer.max_updates=4", "data.batch_size=8", "trainer.accumulate=2"]
    arguments += ["adversary.start=1", "adversary.adaptive=null", "evaluate_after=true"]
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        str(script),
        *arguments,
    ]
    done = subprocess.run(launch, capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (torch.load(tmp_path / f"rank{n}.pt") for n in range(2))
    assert first["samples"] == second["samples"] == 4 * 2 * 2 * 2
    for name, value in first["state"].items():
        if (
            ".norm.running_" in name
        ):  # batch norm's, of the last share of a batch: rank 0's are sent before each forward
            continue
        assert torch.equal(second["state"][name], value), name
    (folder,) = tmp_path.glob("runs/quickstart/*")
    assert [r["update"] for r in rows(folder)] == ["1", "2", "3", "4"]
    assert (folder / "report.html").is_file()
    more = ["ckpt_path=last", "trainer.max_updates=5"]
    again = subprocess.run([*launch[:6], *more], capture_output=True, text=True, cwd=tmp_path, env=environment())
    assert again.returncode == 0, again.stdout + again.stderr
    assert rows(folder)[-1]["update"] == "5"
