"""Two sharded processes that are killed go on from their last whole folder, and end where an unbroken run ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

WORDS = [
    "experiment=llamagen_vq16",
    "debug=tiny",
    "data=generated",
    "callbacks=[checkpoint]",
    "evaluate_after=false",
    "trainer.threads=1",
    "trainer.strategy=fsdp2",
    "trainer.max_updates=8",
    "trainer.checkpoint_every=2",
]
SCRIPT = """
from imtok.training import fsdp2
fsdp2.SMALLEST_BLOCK = 100
from imtok.train import main
main()
"""


def start(folder: Path, *words: str) -> subprocess.Popen:
    script = folder / "small_blocks.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "IMTOK_CACHE": str(folder / "cache")}
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **out)


def rows(run: Path) -> list[str]:
    return (run / "metrics.csv").read_text().splitlines() if (run / "metrics.csv").is_file() else []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for the ranks' processes")
def test_a_killed_run_ends_where_the_unbroken_one_does(tmp_path):
    whole, cut = tmp_path / "runs" / "whole", tmp_path / "runs" / "cut"
    process = start(tmp_path, *WORDS, f"hydra.run.dir={whole}")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and "parameters are sharded" in said, said

    process = start(tmp_path, *WORDS, f"hydra.run.dir={cut}")
    deadline = time.monotonic() + 300
    while len(rows(cut)) < 6:  # the header and five updates
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.02)
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [process.pid, *map(int, ranks)]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert not (cut / "tokenizer").exists(), "it was to be cut short"

    process = start(tmp_path, "ckpt_path=last", f"hydra.run.dir={cut}")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert rows(cut) == rows(whole)
    ours, theirs = (load_file(run / "tokenizer" / "model.safetensors") for run in (cut, whole))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
