"""A kill at any moment of a write in the background leaves whole checkpoints and drafts, and the run goes on from the
newest whole one."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from imtok.training.checkpoint import read
from imtok.training.checkpoint_paths import all_numbered, remove_drafts

WRITES = """
    import sys, torch
    import torch.distributed as dist
    from functools import partial
    from pathlib import Path
    from imtok.training.background import BackgroundWriter, on_cpu
    from imtok.training.callbacks.checkpoint import _write_file, _write_shards
    from imtok.training.checkpoint import FORMAT, write
    from imtok.training.checkpoint_paths import numbered

    folder, kind, start = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if kind == "folder":
        from torch.distributed.tensor import Shard, distribute_tensor
        from imtok.training.sharded_checkpoint import SharedWriter
        dist.init_process_group("gloo", init_method=f"file://{sys.argv[4]}", rank=0, world_size=1)
        mesh, shared = dist.device_mesh.init_device_mesh("cpu", (1,)), SharedWriter()
    writer = BackgroundWriter()
    for update in range(start, start + 10_000):
        values = {str(n): torch.full((500_000,), float(update)) for n in range(8)}
        if kind == "folder":
            values = {name: distribute_tensor(value, mesh, [Shard(0)]) for name, value in values.items()}
        state = {"format": FORMAT, "format_version": 1, "update": update, "tokenizer": values}
        assert writer.finish() is None
        if kind == "folder":
            path = numbered(folder, update)
            writer.start(partial(_write_shards, shared.job(path, state, write), path, keep=2))
        else:
            writer.start(partial(_write_file, folder, on_cpu(state), keep=2))
        print(update, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_whole_checkpoints_outlive_a_kill(tmp_path, kind):
    script = tmp_path / "writes.py"
    script.write_text(textwrap.dedent(WRITES))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    start, drafts = 1, 0
    for attempt in range(3):
        words = [sys.executable, str(script), str(folder), kind, str(start), str(tmp_path / f"store{attempt}")]
        environment = os.environ | {"RANK": "0", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(4):  # so many writes have begun: those before the last are whole
            line = process.stdout.readline()
            assert line, process.stderr.read()
        time.sleep(0.02 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        reached = int(line)
        newest = read(folder / "last.ckpt")
        assert newest["update"] >= reached - 1
        for path in all_numbered(folder):
            state = read(path)
            assert path.name == f"update_{state['update']:08d}.ckpt"
            assert all(torch.equal(v, torch.full_like(v, state["update"])) for v in state["tokenizer"].values())
        assert len(all_numbered(folder)) <= 3
        drafts += len(list(folder.glob(".writing_*")))
        remove_drafts(folder)
        assert not [p.name for p in Path(folder).iterdir() if p.name.startswith(".writing")]
        start = newest["update"] + 1
    assert drafts, "no kill has hit a write: this test has seen nothing"
