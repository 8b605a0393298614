"""A run that is asked to stop ends at an update, with a file to go on from and a code that says why."""

import os
import signal
import threading
import time
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningDataModule

from imtok.common.build import build_as
from imtok.common.errors import UserError
from imtok.configs.compose import compose_config
from imtok.training.checkpoint import read
from imtok.training.settings import TrainerSettings
from imtok.training.stopping import MAX_TIME, SIGNALS, StopRequest, exit_code, leaving_at_once, name_of


@pytest.fixture(autouse=True)
def _handlers_as_in_a_terminal():
    """A shell's background jobs ignore Ctrl-C; torch watches its loaders again afterwards."""
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGCHLD)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("text", "seconds"), [("11:50:00", 42600), ("1:00:00:01", 86401), ("36:00:00", 129600), ("0:0:5", 5), (None, None)]
)
def test_max_time_in_seconds(text, seconds):
    assert TrainerSettings(max_updates=1, max_time=text).max_seconds == seconds


@pytest.mark.parametrize("text", ["11:50", "00:00:00", "1h", "10:61:00", "-1:00:00", 42600, ""])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UserError, match=r"trainer\.max_time="):
        build_as(TrainerSettings, {"max_updates": 1, "max_time": text}, key="trainer")


def test_the_command_line_takes_a_time_as_it_is():
    assert compose_config("train", ["trainer.max_time=11:50:00"])["trainer"]["max_time"] == "11:50:00"


def test_max_time_saves_and_stops_at_the_boundary(make_run):
    run = make_run(max_updates=50, checkpoint_every=50, accumulate=2, max_time="01:00:00")
    late = lambda *_: setattr(run.training, "started_at", time.monotonic() - 3600)  # noqa: E731
    run.tokenizer.register_forward_hook(lambda *_: late() if run.training.update == 2 else None)
    run.fit()
    assert run.training.update == 3 and name_of(run.training.stopped_by) == "trainer.max_time"
    assert read(run.folder / "checkpoints" / "last.ckpt")["update"] == 3


def test_exit_codes():
    reasons = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, MAX_TIME)
    assert [exit_code(reason) for reason in reasons] == [130, 143, 75, 75]


class DyingData(LightningDataModule):
    """Toy samples; before batch `last` the loader dies."""

    def __init__(self, toy, last: int, ask) -> None:
        super().__init__()
        self.toy, self.last, self.ask = toy, last, ask
        self.begin_at, self.val_dataloader, self.prepare_batch = toy.begin_at, toy.val_dataloader, toy.prepare_batch

    def train_dataloader(self):
        loader = self.toy.train_dataloader()
        outer = self

        class Dying(torch.utils.data.DataLoader):
            def __iter__(self):
                for number, batch in enumerate(super().__iter__()):
                    if number == outer.last:
                        outer.ask()
                        raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")
                    yield batch

        return Dying(loader.dataset, batch_size=loader.batch_size, collate_fn=loader.collate_fn)


@pytest.mark.parametrize(("accumulate", "asked", "saved"), [(1, True, 3), (2, True, None), (1, False, None)])
def test_a_loader_that_dies_after_a_stop_was_asked_for(make_run, toy_data, accumulate, asked, saved):
    """Batch 3 is the first of update 4 or the second of update 2, whose first half cannot be undone."""
    ask = (lambda: os.kill(os.getpid(), signal.SIGTERM)) if asked else (lambda: None)
    how = {"max_updates": 6, "checkpoint_every": 50, "accumulate": accumulate}
    run = make_run("cut", data=DyingData(toy_data(), 3, ask), **how)
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        run.fit()
    last = run.folder / "checkpoints" / "last.ckpt"
    if saved is None:
        assert run.training.stopped_by is None and not last.exists()
        return
    assert run.training.stopped_by == signal.SIGTERM
    rest = make_run("cut", ckpt=last, **how).fit()
    whole = make_run("whole", **how).fit()
    assert rest.rows == whole.rows
    for name, value in whole.tokenizer.state_dict().items():
        assert torch.equal(rest.tokenizer.state_dict()[name], value), name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_outside_of_updates_the_process_leaves(number):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as left, leaving_at_once():  # noqa: PT012
        os.kill(os.getpid(), number)
        time.sleep(5)
    assert left.value.code == exit_code(number) and signal.getsignal(number) == before


def test_lightning_requeues_no_slurm_job(make_run, monkeypatch):
    """Under SLURM it would, at SIGUSR1; our handlers are there first, and its own never are."""
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "7"}.items():
        monkeypatch.setenv(name, value)
    for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "localhost")
    run = make_run(max_updates=50)
    connector = run.trainer._signal_connector
    asked = SimpleNamespace(requeued=0)
    monkeypatch.setattr(connector, "_slurm_sigusr_handler_fn", lambda *_: setattr(asked, "requeued", 1))
    run.tokenizer.register_forward_hook(
        lambda *_: os.kill(os.getpid(), signal.SIGUSR1) if run.training.update == 1 else None
    )
    with leaving_at_once():
        connector.register_signal_handlers()
        assert connector._has_already_handler(signal.SIGUSR1)
        with pytest.raises(SystemExit) as left:
            os.kill(os.getpid(), signal.SIGUSR1)  # before the first update
        connector.teardown()
    assert left.value.code == 75
    with leaving_at_once():
        run.fit()
    assert run.training.stopped_by == signal.SIGUSR1 and run.training.update == 2 and not asked.requeued


@pytest.mark.parametrize("where", ["before the first batch", "within an update"])
def test_an_error_elsewhere_saves_nothing_and_the_handlers_are_back(make_run, toy_data, where):
    ask = lambda: os.kill(os.getpid(), signal.SIGTERM)  # noqa: E731
    before = {number: signal.getsignal(number) for number in SIGNALS}
    data = DyingData(toy_data(), 0, ask) if where == "before the first batch" else toy_data()
    run = make_run("cut", data=data, max_updates=6, checkpoint_every=50)
    if where == "within an update":

        def fail(*_) -> None:
            if run.training.update == 2:
                ask()
                raise RuntimeError("exited unexpectedly")

        run.tokenizer.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        run.fit()
    assert run.training.stopped_by is None and not (run.folder / "checkpoints").exists()
    assert {number: signal.getsignal(number) for number in SIGNALS} == before


def test_the_first_reason_counts_and_a_second_ctrl_c_leaves_at_once(capsys):
    request = StopRequest()
    assert request.of_any_rank(0) == 0
    request.listen()
    signal.signal(signal.SIGCHLD, lambda *_: None)
    os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL, "a dying worker raises nothing any more"
    os.kill(os.getpid(), signal.SIGUSR1)
    assert request.of_any_rank(0) == signal.SIGTERM
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert capsys.readouterr().err.count("imtok: SIGTERM: stopping after this update") == 1
    request.listen()
    assert request.of_any_rank(0) == 0, "a new training has not been asked yet"
    os.kill(os.getpid(), signal.SIGINT)  # the first one asks
    assert request.of_any_rank(0) == signal.SIGINT


def test_a_second_signal_does_not_cut_short_what_tidies_up():
    with pytest.raises(SystemExit), leaving_at_once():  # noqa: PT012
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            for number in (signal.SIGUSR1, signal.SIGTERM):
                assert signal.getsignal(number) is signal.SIG_IGN
                os.kill(os.getpid(), number)
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN


def test_threads_leave_signals_alone():
    before, seen = [signal.getsignal(number) for number in SIGNALS], []

    def work() -> None:
        request = StopRequest()
        request.listen()
        with leaving_at_once():
            seen.append([signal.getsignal(number) for number in SIGNALS])
        request.watch_clock(started_at=0.0, max_seconds=0.0)
        request.hand_back()
        seen.append(request.of_any_rank(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, MAX_TIME]


def test_ctrl_c_raises_as_ever_outside_of_updates():
    with pytest.raises(KeyboardInterrupt), leaving_at_once():
        os.kill(os.getpid(), signal.SIGINT)
