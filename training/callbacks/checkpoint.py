"""Checkpoints at update boundaries, and when someone asks the run to stop."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint as LastCallback

from ...common.console import say
from ...common.errors import one_line
from ..checkpoint import gather, write
from ..module import TokenizerTraining
from ..stopping import StopRequest
from .validation import validation_follows


class Checkpoint(LastCallback):  # Lightning runs callbacks of this class after all others
    """checkpoints/last.ckpt and the newest numbered ones; a request to stop saves one and ends the run."""

    def __init__(self) -> None:
        self.stop = StopRequest()
        self.due = False
        self.saved_at = -1
        self.written_at: int | None = None  # the update of the newest file that is whole

    def on_train_start(self, trainer: Trainer, training: TokenizerTraining) -> None:
        self.saved_at = -1
        self.written_at = training.update or None  # a run that goes on has the file it came from
        training.stop = self.stop
        self.stop.listen()

    def on_train_batch_end(self, trainer: Trainer, training: TokenizerTraining, *_: Any) -> None:
        if not training.finished_update:
            return
        asked = self.stop.of_any_rank(training.guard.asked)
        self.due = bool(asked) or training.update % training.settings.checkpoint_every == 0
        if asked:
            training.stopped_by = asked
            if not validation_follows(trainer):
                trainer.limit_val_batches = 0  # Lightning would validate now because of the next line
            trainer.should_stop = True
        if not validation_follows(trainer):
            self._save_if_due(training)

    def on_validation_end(self, trainer: Trainer, training: TokenizerTraining) -> None:
        """A run that goes on from here has no validation to repeat, and callbacks that count them are up to date."""
        self._save_if_due(training)

    def on_train_end(self, trainer: Trainer, training: TokenizerTraining) -> None:
        if self.saved_at != training.update:
            self.save(training)
        self.stop.hand_back()

    def on_exception(self, trainer: Trainer, training: TokenizerTraining, exception: BaseException) -> None:
        """A loader that dies after a stop was asked for costs nothing; of several ranks the others may be elsewhere."""
        asked = self.stop.asked_by
        if asked and isinstance(exception, Exception) and training.between_updates and trainer.world_size == 1:
            if self.saved_at != training.update:
                self.save(training)
            training.stopped_by = asked
        self.stop.hand_back()

    def _save_if_due(self, training: TokenizerTraining) -> None:
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
            failed = f"the checkpoint of update {training.update} could not be written ({good})"
            say(f"{failed}, training goes on: {one_line(error)}", error=True)


def point_to(last: Path, numbered: Path) -> None:
    """A hard link: no second copy on the disk, and a file of its own when the numbered one is removed."""
    draft = last.with_suffix(".linking")
    draft.unlink(missing_ok=True)
    try:
        os.link(numbered, draft)
    except OSError:  # file systems without hard links
        draft.write_bytes(numbered.read_bytes())
    os.replace(draft, last)
