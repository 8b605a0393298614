"""Checkpoints at update boundaries, and when someone asks the run to stop."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint as LastCallback

from ...common.console import say
from ...common.errors import one_line
from ..checkpoint import gather, write
from ..module import TokenizerTraining
from .validation import validation_follows

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Checkpoint(LastCallback):  # Lightning runs callbacks of this class after all others
    """checkpoints/last.ckpt and the newest numbered ones; SIGTERM and Ctrl-C save one and end the run."""

    def __init__(self) -> None:
        self.asked_by: int | None = None
        self.previous: dict[int, Any] = {}
        self.due = False
        self.saved_at = -1
        self.written_at: int | None = None  # the update of the newest file that is whole

    def on_train_start(self, trainer: Trainer, training: LightningModule) -> None:
        assert isinstance(training, TokenizerTraining)
        self.saved_at = -1
        self.written_at = training.update or None  # a run that goes on has the file it came from
        # Not earlier: Lightning puts up its own handlers until here, and would raise in the middle of an update.
        if threading.current_thread() is threading.main_thread():
            self.previous = {number: signal.signal(number, self._ask) for number in SIGNALS}

    def on_train_batch_end(
        self, trainer: Trainer, training: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(training, TokenizerTraining)
        if not training.finished_update:
            return
        asked = self._any_rank_asked(training.device)
        self.due = bool(asked) or training.update % training.settings.checkpoint_every == 0
        if asked:
            training.stopped_by = asked
            if not validation_follows(trainer):
                trainer.limit_val_batches = 0  # Lightning would validate now because of the next line
            trainer.should_stop = True
        if not validation_follows(trainer):
            self._save_if_due(training)

    def on_validation_end(self, trainer: Trainer, training: LightningModule) -> None:
        """A run that goes on from here has no validation to repeat, and callbacks that count them are up to date."""
        self._save_if_due(training)

    def on_train_end(self, trainer: Trainer, training: LightningModule) -> None:
        assert isinstance(training, TokenizerTraining)
        if self.saved_at != training.update:
            self.save(training)
        self._hand_back_signals()

    def on_exception(self, trainer: Trainer, training: LightningModule, exception: BaseException) -> None:
        self._hand_back_signals()

    def _save_if_due(self, training: LightningModule) -> None:
        assert isinstance(training, TokenizerTraining)
        if self.due:
            self.due = False
            self.save(training)

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
        if not (dist.is_available() and dist.is_initialized()):
            return self.asked_by or 0
        asked = torch.tensor(self.asked_by or 0, device=device)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        return int(asked)


def point_to(last: Path, numbered: Path) -> None:
    """A hard link: no second copy on the disk, and a file of its own when the numbered one is removed."""
    draft = last.with_suffix(".linking")
    draft.unlink(missing_ok=True)
    try:
        os.link(numbered, draft)
    except OSError:  # file systems without hard links
        draft.write_bytes(numbered.read_bytes())
    os.replace(draft, last)
