"""One write at a time, of a copy that training does not change, and its errors come back."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from imtok.training.background import BackgroundWriter, on_cpu
from imtok.training.callbacks import checkpoint as callback
from imtok.training.checkpoint import read


def test_a_job_runs_beside_and_the_next_waits_for_it():
    writer, go, done = BackgroundWriter(), threading.Event(), []
    writer.start(lambda: (go.wait(20), done.append("first")))
    assert writer.is_busy and not done
    with pytest.raises(AssertionError, match="finish"):
        writer.start(lambda: done.append("second"))
    go.set()
    assert writer.finish() is None and done == ["first"] and not writer.is_busy
    writer.start(lambda: done.append("second"))
    assert writer.finish() is None and done == ["first", "second"]


def test_an_error_is_handed_back_once():
    writer = BackgroundWriter()
    writer.start(lambda: 1 / 0)
    assert isinstance(writer.finish(), ZeroDivisionError) and writer.finish() is None


def test_a_process_that_ends_does_not_wait_for_a_job():
    code = (
        "import time; from imtok.training.background import BackgroundWriter as W; W().start(lambda: time.sleep(1e6))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_a_copy_shares_nothing_with_what_it_was_made_of():
    tensor = torch.zeros(3)
    state = {"a": [tensor, (tensor, 1)], "b": {2: "x", "c": None}}
    copy = on_cpu(state)
    tensor += 1
    assert copy["b"] == state["b"] and type(copy["a"][1]) is tuple
    assert copy["a"][0].sum() == 0 and copy["a"][1][0].sum() == 0


def test_training_goes_on_while_the_file_is_written_and_it_holds_the_update_of_its_name(make_run, monkeypatch):
    """The first write is held up until two updates more are done."""
    run = make_run(max_updates=6, checkpoint_every=2, keep_checkpoints=9)
    weights: dict[int, torch.Tensor] = {}
    later, real = threading.Event(), callback.write
    written_during: list[int] = []

    def write(path: Path, state: dict) -> None:
        assert threading.current_thread() is not threading.main_thread()
        if state["update"] == 2:
            assert later.wait(60)
        written_during.append(run.training.update)
        real(path, state)

    def look(*_) -> None:
        weights[run.training.update] = run.tokenizer.decoder.conv_out.weight.detach().clone()
        if run.training.update == 3:
            later.set()

    monkeypatch.setattr(callback, "write", write)
    run.tokenizer.register_forward_pre_hook(look)
    run.fit()
    assert written_during[0] >= 3 and len(written_during) == 3, "the end waits for the last one"
    for update in (2, 4):
        state = read(run.folder / "checkpoints" / f"update_{update:08d}.ckpt")
        assert state["update"] == update
        assert torch.equal(state["tokenizer"]["decoder.conv_out.weight"], weights[update])


def test_another_error_than_of_the_disk_ends_the_run(make_run, monkeypatch):
    def write(path: Path, state: dict) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(callback, "write", write)
    with pytest.raises(RuntimeError, match="a bug"):
        make_run(max_updates=3, checkpoint_every=1).fit()


def test_drafts_of_killed_writers_are_swept_away(make_run):
    run = make_run(max_updates=1)
    folder = run.folder / "checkpoints"
    (folder / ".writing_update_00000001.ckpt").mkdir(parents=True)
    (folder / ".writing_update_00000001.ckpt" / "__0_0.distcp").write_bytes(b"half")
    (folder / ".writing_abc").write_bytes(b"half")
    run.fit()
    assert sorted(path.name for path in folder.iterdir()) == ["last.ckpt", "update_00000001.ckpt"]
