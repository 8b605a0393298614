"""Going on is as if nothing had happened; what does not fit is refused; a bad disk costs at most the newest file."""

import errno
import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from torch import nn

from imtok.common import files as atomic_file
from imtok.common.errors import UserError
from imtok.training import checkpoint, checkpoint_paths
from imtok.training.callbacks import checkpoint as checkpoint_callback
from imtok.training.callbacks.codebook import Codebook
from imtok.training.callbacks.samples import Samples
from imtok.training.callbacks.validation import Validation
from imtok.training.checkpoint import (
    Saved,
    callback_states,
    check_batch,
    check_fits,
    differing_keys,
    gather,
    read,
    restore,
    trained_state,
    write,
)
from imtok.training.checkpoint_paths import point_to

GAN = {
    "start": 1,
    "adaptive": {"_target_": "imtok.losses.adversarial.adaptive_weight.AdaptiveWeight"},
    "lecam": {"_target_": "imtok.losses.adversarial.lecam.LeCam"},
}


def callbacks() -> tuple:
    return Validation(), Codebook(), Samples(every=2, images=2)


def test_resumed_run_equals_the_unbroken_one(make_run):
    how = {"adversary": GAN, "max_updates": 6, "ema": {"decay": 0.9}, "checkpoint_every": 3, "validate_every": 2}
    how |= {"quantizer": {"revive_below": 0.9, "usage_decay": 0.5}}  # revival draws random numbers in every update
    whole = make_run("whole", callbacks=callbacks(), keep_checkpoints=9, **how).fit()
    first = make_run("cut", callbacks=callbacks(), keep_checkpoints=9, **how).fit()  # and pretend it died at 5
    second = make_run("cut", ckpt=first.folder / "checkpoints" / "update_00000003.ckpt", callbacks=callbacks(), **how)
    torch.manual_seed(99)
    assert [row.split(",")[0] for row in second.rows[1:]] == ["1", "2", "3"]
    second.fit()
    assert second.rows == whole.rows
    for name, value in whole.training.state_dict().items():
        assert torch.equal(second.training.state_dict()[name], value), name
    for name, value in whole.training.ema.parameters.items():
        assert torch.equal(second.training.ema.parameters[name], value), name


def test_validation_and_pictures_do_not_touch_the_training(make_run):
    quiet = make_run("quiet", quantizer={"revive_below": 0.9, "usage_decay": 0.5}).fit()
    busy = make_run(
        "busy", quantizer={"revive_below": 0.9, "usage_decay": 0.5}, validate_every=1, callbacks=callbacks()
    ).fit()
    for name, value in quiet.tokenizer.state_dict().items():
        assert torch.equal(busy.tokenizer.state_dict()[name], value), name


def test_a_checkpoint_that_is_due_with_a_validation_is_written(make_run):
    how = {"max_updates": 5, "checkpoint_every": 2, "validate_every": 2, "keep_checkpoints": 9}
    run = make_run(callbacks=(Validation(),), **how).fit()
    written = sorted(p.name for p in (run.folder / "checkpoints").glob("update_*"))
    assert written == [f"update_{n:08d}.ckpt" for n in (2, 4, 5)]


def test_another_architecture_is_refused_by_names(make_run):
    first = make_run("a", max_updates=1).fit()
    ckpt = first.folder / "checkpoints" / "last.ckpt"
    with pytest.raises(UserError, match=r"other shape: tokenizer\.quantizer\.codebook \[16, 8\] instead of \[32, 8\]"):
        make_run("b", ckpt=ckpt, max_updates=2, quantizer={"codebook_size": 32}).fit()
    with pytest.raises(UserError, match=r"missing: adversary\.discriminator"):
        make_run("c", ckpt=ckpt, max_updates=2, adversary={}).fit()
    saved = {"tokenizer": {"quantizer": {"codebook_size": 16}}}
    assert differing_keys(saved, {"tokenizer": {"quantizer": {"codebook_size": 32}}}) == [
        "tokenizer.quantizer.codebook_size=16 there, 32 here"
    ]


def test_the_yaml_s_differences_are_named_four_at_most_and_tiny_is_none():
    old = {
        "loss": {"l1": {"weight": 1.0}},
        "adversary": None,
        "tokenizer": {"tiny": {"a": 1}} | dict.fromkeys("abcd", 1),
    }
    new = {
        "loss": {"l1": {"weight": 1.0}},
        "adversary": {"x": 1},
        "tokenizer": {"tiny": {"a": 2}} | dict.fromkeys("abce", 2),
    }
    expected = [f"tokenizer.{n}=1 there, 2 here" for n in "abc"]
    expected += ["tokenizer.d=1 there, None here", "tokenizer.e=None there, 2 here"]
    expected += ["adversary=None there, a node here"]
    assert differing_keys(old, new) == expected and differing_keys(old, old) == []
    here = SimpleNamespace(tokenizer=nn.Linear(1, 2), losses=nn.Module(), adversary=None)
    state = {"tokenizer": nn.Linear(1, 3).state_dict(), "losses": {}, "adversary": None, "config": old}
    with pytest.raises(UserError, match=r"; the YAML differs: (tokenizer\.[abcd]=\w+ there, \w+ here(, )?){4}$"):
        check_fits(here, Saved(Path("x"), state), config=new)
    with pytest.raises(UserError, match=r"weight \[3, 1\] instead of \[2, 1\][^;]*$"):
        check_fits(here, Saved(Path("x"), state), config=old)


def test_a_frozen_network_within_a_trained_part_is_not_asked_for(make_run):
    def with_teacher(name, **how):
        run = make_run(name, **how)
        run.training.losses.teacher = nn.Linear(2, 2).requires_grad_(False)
        return run

    first = with_teacher("a", max_updates=1, ema={"decay": 0.9}).fit()
    ckpt = first.folder / "checkpoints" / "last.ckpt"
    second = with_teacher("b", max_updates=2, ckpt=ckpt).fit()  # the mean is turned off
    assert second.training.update == 2 and second.training.ema is None and read(ckpt)["ema"] is not None


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (8, 1), (1, 4), (2, 2)])
def test_a_checkpoint_from_when_the_batch_was_of_one_process(processes, accumulate):
    old = {"data": {"batch_size": 32}, "trainer": {"accumulate": accumulate}}
    saved = Saved(Path("x"), {"config": old, "rng": [{}] * processes})
    together = 32 * processes * accumulate
    check_batch(saved, config={"data": {"batch_size": together}})
    check_batch(saved, config={"data": {"batch_size": 24}})  # chosen anew
    if together == 32:
        check_batch(saved, config=old)
        return
    with pytest.raises(UserError, match=rf"^data.batch_size=32: .* give data.batch_size={together}, which"):
        check_batch(saved, config=old)
    check_batch(Saved(Path("x"), saved.state | {"images_per_update": 32}), config=old)


def test_more_processes_than_before_keep_the_random_state_they_were_seeded_with(make_run, monkeypatch):
    first = make_run("a", max_updates=1).fit()
    saved = Saved(first.folder, read(first.folder / "checkpoints" / "last.ckpt"))
    for number, known in ((0, True), (1, False), (2, False)):
        monkeypatch.setattr(checkpoint, "rank", lambda number=number: number)
        restore(first.training, saved=saved, config={})
        assert (first.training.rng_to_restore is not None) == known


def test_frozen_networks_stay_out():
    teacher = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).requires_grad_(False)
    teacher.register_buffer("mean", torch.zeros(3))
    term = nn.Module()
    term.teacher, term.projector = teacher, nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    term.register_buffer("running", torch.zeros(()))
    names = set(trained_state(term))
    assert not any(n.startswith("teacher") for n in names)
    assert {"running", "projector.0.weight", "projector.1.running_mean"} <= names


def test_the_file_loads_without_pickled_code_and_a_torn_one_is_one_line(make_run, tmp_path):
    run = make_run(max_updates=1, adversary=GAN).fit()
    file = run.folder / "checkpoints" / "last.ckpt"
    assert read(file)["update"] == 1  # weights_only=True inside
    torn = tmp_path / "torn.ckpt"
    text, bytes_ = b"these are my notes\n", file.read_bytes()
    for content in (b"", text, b"KEY: 1\n", b"PK\x03\x04", bytes_[:1000], bytes_[: len(bytes_) // 2]):
        torn.write_bytes(content)
        with pytest.raises(UserError, match=r"^ckpt_path=.*torn\.ckpt: cannot be read; it is cut off") as caught:
            read(torn)
        assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    for version in (2, 99):
        write(torn, read(file) | {"format_version": version})
        with pytest.raises(UserError, match="newer than this one"):
            read(torn)
    for other in ({"state_dict": {}}, {"format": "imtok-else"}, [1, 2], torch.zeros(2)):
        torch.save(other, torn)
        with pytest.raises(UserError, match="not a training checkpoint of imtok; init_from=DIR starts"):
            read(torn)
    torch.save(read(file) | {"callbacks": {"x": Path("pickled")}}, torn)
    with pytest.raises(UserError, match="cannot be read"):
        read(torn)


def test_a_full_disk_costs_a_line_and_the_last_good_checkpoint_stays(make_run, monkeypatch, capsys):
    run = make_run(max_updates=4, checkpoint_every=2)
    real = atomic_file.os.fsync

    def fsync(handle: int) -> None:
        if (run.folder / "checkpoints" / "last.ckpt").exists():  # the first is written
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(atomic_file.os, "fsync", fsync)
    run.fit()
    assert run.training.update == 4 and run.training.failed_writes == 1
    folder = run.folder / "checkpoints"
    assert read(folder / "last.ckpt")["update"] == 2
    assert sorted(p.name for p in folder.iterdir()) == ["last.ckpt", "update_00000002.ckpt"]
    assert (
        "the checkpoint of update 4 could not be written (that of update 2 is good), training"
        in capsys.readouterr().err
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting needs root")
def test_a_real_full_disk(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)], capture_output=True).returncode:
        pytest.skip("no mounts here")
    try:
        write(mount / "last.ckpt", {"x": torch.zeros(1000)})
        with pytest.raises(OSError, match="No space"):
            write(mount / "last.ckpt", {"x": torch.zeros(10**6)})
        assert torch.load(mount / "last.ckpt")["x"].shape == (1000,)
        assert [p.name for p in mount.iterdir()] == ["last.ckpt"]
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_without_an_earlier_file_the_line_says_so_and_only_the_newest_is_kept_if_asked(make_run, monkeypatch, capsys):
    real = checkpoint_callback.write

    def write_later(path, state):
        if state["update"] < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, state)

    monkeypatch.setattr(checkpoint_callback, "write", write_later)
    run = make_run(max_updates=4, checkpoint_every=2, keep_checkpoints=0).fit()
    assert "update 2 could not be written (there is no earlier one), training goes on" in capsys.readouterr().err
    assert run.training.failed_writes == 1
    assert [p.name for p in (run.folder / "checkpoints").iterdir()] == ["last.ckpt"]
    monkeypatch.setattr(checkpoint_callback, "write", lambda *_: (_ for _ in ()).throw(OSError("full")))
    ckpt = run.folder / "checkpoints" / "last.ckpt"
    make_run(max_updates=5, ckpt=ckpt).fit()
    assert "update 5 could not be written (that of update 4 is good)" in capsys.readouterr().err


def test_a_file_is_written_once_an_update_and_by_the_first_process_alone(make_run, monkeypatch):
    written = []
    monkeypatch.setattr(checkpoint_callback, "write", lambda path, state: written.append(state["update"]))
    make_run("a", max_updates=4, checkpoint_every=2, keep_checkpoints=0).fit()
    assert written == [2, 4]
    other = make_run("b", max_updates=2)
    monkeypatch.setattr(type(other.trainer), "is_global_zero", False)
    other.fit()
    assert written == [2, 4]


def test_the_last_file_is_a_link_or_a_copy_where_there_are_none(tmp_path, monkeypatch):
    numbered, last = tmp_path / "update_1.ckpt", tmp_path / "last.ckpt"
    numbered.write_text("one")
    (tmp_path / "last.linking").write_text("left by a run that was killed")
    point_to(last, numbered)
    assert last.samefile(numbered) and sorted(p.name for p in tmp_path.iterdir()) == ["last.ckpt", "update_1.ckpt"]

    def link(*_) -> None:
        raise OSError(errno.EPERM, "no hard links")

    numbered = tmp_path / "update_2.ckpt"
    numbered.write_text("two")
    monkeypatch.setattr(checkpoint_paths.os, "link", link)
    point_to(last, numbered)
    assert last.read_text() == "two" and not last.samefile(numbered) and not (tmp_path / "last.linking").exists()


def test_numbered_checkpoints_are_pruned(make_run):
    run = make_run(max_updates=5, checkpoint_every=1, keep_checkpoints=2).fit()
    names = sorted(p.name for p in (run.folder / "checkpoints").iterdir())
    assert names == ["last.ckpt", "update_00000004.ckpt", "update_00000005.ckpt"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_stops_at_the_boundary(make_run, number):
    run = make_run(max_updates=50, checkpoint_every=50)
    run.tokenizer.register_forward_hook(lambda *_: os.kill(os.getpid(), number) if run.training.update == 2 else None)
    before = signal.getsignal(number)
    run.fit()
    assert run.training.stopped_by == number and run.training.update == 3
    assert read(run.folder / "checkpoints" / "last.ckpt")["update"] == 3
    assert signal.getsignal(number) == before


def test_resume_reads_what_another_precision_wrote(make_run):
    first = make_run("a", max_updates=1).fit()
    ckpt: Path = first.folder / "checkpoints" / "last.ckpt"
    second = make_run("b", ckpt=ckpt, max_updates=2, precision="fp16", ema={"decay": 0.5}).fit()
    assert second.training.update == 2


def test_a_mean_that_is_turned_on_at_resume_starts_from_the_restored_weights(make_run):
    first = make_run("a", max_updates=2, optimizer={"name": "sgd", "lr": 0.1}).fit()
    ckpt: Path = first.folder / "checkpoints" / "last.ckpt"
    second = make_run("b", ckpt=ckpt, max_updates=3, ema={"decay": 0.5}, optimizer={"name": "sgd", "lr": 0.1}).fit()
    live, before = dict(second.tokenizer.named_parameters()), dict(first.tokenizer.named_parameters())
    for name, value in second.training.ema.parameters.items():
        torch.testing.assert_close(value, (live[name] + before[name]) / 2)


@pytest.mark.parametrize(("at", "validated"), [(2, True), (3, False)], ids=["validation is due", "it is not"])
def test_a_signal_lets_a_due_validation_happen_and_no_other(make_run, at, validated):
    run = make_run(max_updates=50, checkpoint_every=50, validate_every=2, callbacks=(Validation(),))
    seen: list[int] = []
    stop = lambda *_: os.kill(os.getpid(), signal.SIGTERM) if run.training.update == at - 1 else None  # noqa: E731
    run.tokenizer.register_forward_pre_hook(stop)
    run.tokenizer.register_forward_hook(
        lambda *_: seen.append(run.training.update) if not run.training.training else None
    )
    run.fit()
    assert run.training.stopped_by == signal.SIGTERM and run.training.update == at
    assert (at in seen) == validated and 2 in seen
    saved = read(run.folder / "checkpoints" / "last.ckpt")
    live = dict(run.tokenizer.state_dict())
    assert saved["update"] == at and all(torch.equal(v, live[k]) for k, v in saved["tokenizer"].items())


def test_an_error_within_validation_does_not_save_the_weights_of_the_ema(make_run, toy_data):
    run = make_run(max_updates=2, validate_every=2, ema={"decay": 0.9}, callbacks=(Validation(),))
    kept: dict = {}

    def fail(*_) -> None:
        if not run.training.training:
            raise RuntimeError("a worker died")
        kept.update({k: v.clone() for k, v in run.tokenizer.named_parameters()})

    run.trainer.callbacks[-1].on_exception = lambda trainer, training, _: kept.update(
        saved=gather(training, {})["tokenizer"]
    )
    run.tokenizer.register_forward_pre_hook(fail)
    before_update_2 = kept
    with pytest.raises(RuntimeError, match="a worker died"):
        run.fit()
    mean = run.training.ema.parameters["decoder.conv_out.weight"]
    saved = before_update_2["saved"]["decoder.conv_out.weight"]
    assert not torch.equal(saved, mean) and torch.equal(saved, run.tokenizer.decoder.conv_out.weight)


class Keeps(Callback):
    def __init__(self, state) -> None:
        self.state = state

    def state_dict(self):
        return self.state


def test_only_states_that_can_be_read_back_are_kept(capsys):
    plain = {"a": [1, (2.0, "x")], "b": {3: torch.zeros(2), "c": None, "d": {True, b"y"}}}
    assert callback_states([Keeps(plain), Keeps({})]) == {"Keeps": plain}
    for odd in (Path("x"), np.float64(1), nn.Parameter(torch.zeros(1)), lambda: 0):
        assert callback_states([Keeps({"a": [{"b": odd}]})]) == {}
        assert "the state of Keeps is not in the checkpoint" in capsys.readouterr().err
