"""Checkpoints at update boundaries, and when someone asks the run to stop."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from ...common.console import say
from ...common.distributed import max_over_processes
from ...common.errors import one_line
from ..checkpoint import gather, write
from ..module import TokenizerTraining

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Checkpoint(Callback):
    """checkpoints/last.ckpt and the newest numbered ones; SIGTERM and Ctrl-C save one and end the run."""

    def __init__(self) -> None:
        self.asked_by: int | None = None
        self.previous: dict[int, Any] = {}
        self.saved_at = -1
        self.written_at: int | None = None  # the update of the newest file that is whole

    def on_train_start(self, trainer: Trainer, training: TokenizerTraining) -> None:
        self.saved_at = -1
        self.written_at = training.update or None  # a run that goes on has the file it came from
        # Not earlier: Lightning puts up its own handlers until here, and would raise in the middle of an update.
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def on_train_batch_end(self, trainer: Trainer, training: TokenizerTraining, *_: Any) -> None:
        if not training.finished_update:
            return
        asked = self._any_rank_asked(training.device)
        if asked or training.update % training.settings.checkpoint_every == 0:
            self.save(training)
        if asked:
            training.stopped_by = asked
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, training: TokenizerTraining) -> None:
        if self.saved_at != training.update:
            self.save(training)
        self._hand_back_signals()

    def on_exception(self, trainer: Trainer, training: TokenizerTraining, exception: BaseException) -> None:
        self._hand_back_signals()

    def save(self, training: TokenizerTraining) -> None:
        """All ranks take part; rank 0 writes. A write that fails costs a line, not the run."""
        state = gather(training, training.config)
        self.saved_at = training.update
        if not training.trainer.is_global_zero:
            return
        folder = training.run_folder / "checkpoints"
        keep = training.settings.keep_checkpoints
        try:
            if keep:
                numbered = folder / f"update_{training.update:08d}.ckpt"
                write(numbered, state)
                point_to(folder / "last.ckpt", numbered)
                for old in sorted(folder.glob("update_*.ckpt"))[:-keep]:
                    old.unlink()
            else:
                write(folder / "last.ckpt", state)
            self.written_at = training.update
        except OSError as error:
            training.failed_writes += 1
            good = "there is no earlier one" if self.written_at is None else f"that of update {self.written_at} is good"
            say(
                f"the checkpoint of update {training.update} could not be written ({good}), training goes on: "
                f"{one_line(error)}",
                error=True,
            )

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked_by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked_by = number
        say(
            f"{signal.Signals(number).name}: stopping after this update (Ctrl-C again: at once, without a checkpoint)",
            error=True,
        )

    def _hand_back_signals(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
        self.previous = {}

    def _any_rank_asked(self, device: torch.device) -> int:
        """A signal may reach one rank an update earlier than another, and all have to stop after the same one."""
        return max_over_processes(self.asked_by or 0, device)


def point_to(last: Path, numbered: Path) -> None:
    """A hard link: no second copy on the disk, and a file of its own when the numbered one is removed."""
    draft = last.with_suffix(".linking")
    draft.unlink(missing_ok=True)
    try:
        os.link(numbered, draft)
    except OSError:  # file systems without hard links
        draft.write_bytes(numbered.read_bytes())
    os.replace(draft, last)
