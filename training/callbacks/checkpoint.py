"""Checkpoints at update boundaries, and when someone asks the run to stop."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint as LastCallback

from ...common.console import is_first_rank, say
from ...common.errors import one_line
from ..background import BackgroundWriter, Job, on_cpu
from ..checkpoint import gather, sharded_tensors, write
from ..checkpoint_paths import numbered, point_to, remove_drafts, remove_older
from ..module import TokenizerTraining
from ..stopping import StopRequest
from .validation import validation_follows

if TYPE_CHECKING:
    from ..sharded_checkpoint import SharedWriter


class Checkpoint(LastCallback):  # Lightning runs callbacks of this class after all others
    """checkpoints/last.ckpt and the newest numbered ones; a request to stop saves one and ends the run.

    A copy is made at once and written in the background, one at a time; the run's end waits for the last.
    """

    def __init__(self) -> None:
        self.stop = StopRequest()
        self.due = False
        self.saved_at = -1
        self.written_at: int | None = None  # the update of the newest file that is whole
        self.writing: int | None = None  # the update of the one that is being written
        self.writer = BackgroundWriter()
        self.shared: SharedWriter | None = None  # where weights are sharded

    def on_train_start(self, trainer: Trainer, training: TokenizerTraining) -> None:
        self.saved_at = -1
        self.written_at = training.update or None  # a run that goes on has the file it came from
        training.stop = self.stop
        if sharded_tensors(training):
            from ..sharded_checkpoint import SharedWriter

            self.shared = SharedWriter()
        if trainer.is_global_zero:
            remove_drafts(training.run_folder / "checkpoints")
        self.stop.listen()

    def on_train_batch_end(self, trainer: Trainer, training: TokenizerTraining, *_: Any) -> None:
        if not training.finished_update:
            return
        if self.writing is not None and not self.writer.is_busy:
            self._settle(training)
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
        self._settle(training)
        self.stop.hand_back()

    def on_exception(self, trainer: Trainer, training: TokenizerTraining, exception: BaseException) -> None:
        """A loader that dies after a stop was asked for costs nothing; of several ranks the others may be elsewhere."""
        asked = self.stop.asked_by
        if asked and isinstance(exception, Exception) and training.between_updates and trainer.world_size == 1:
            if self.saved_at != training.update:
                self.save(training)
            training.stopped_by = asked
        if isinstance(exception, Exception):  # not a second Ctrl-C, which means at once
            self._settle(training)
        self.stop.hand_back()

    def _save_if_due(self, training: TokenizerTraining) -> None:
        if self.due:
            self.due = False
            self.save(training)

    def save(self, training: TokenizerTraining) -> None:
        """All ranks take part; rank 0 writes, or each its shards, while training goes on."""
        self._settle(training)
        state = gather(training, training.config)
        self.saved_at = update = training.update
        folder, keep = training.run_folder / "checkpoints", training.settings.keep_checkpoints
        if self.shared is not None:
            path = numbered(folder, update)
            shards = self.shared.job(path, state, write)
            job = partial(_write_shards, shards, path, keep=keep)
        elif training.trainer.is_global_zero:
            job = partial(_write_file, folder, on_cpu(state), keep=keep)
        else:
            return
        self.writing = update
        self.writer.start(job)

    def _settle(self, training: TokenizerTraining) -> None:
        """Wait for the write that is under way, if any. One that failed costs a line, not the run."""
        error = self.writer.finish()
        if error is None:
            self.written_at = self.writing or self.written_at
        elif isinstance(error, OSError):
            training.failed_writes += 1
            good = "there is no earlier one" if self.written_at is None else f"that of update {self.written_at} is good"
            failed = f"the checkpoint of update {self.writing} could not be written ({good})"
            say(f"{failed}, training goes on: {one_line(error)}", error=True)
        else:
            raise error
        self.writing = None


def _write_file(folder: Path, state: Mapping[str, Any], *, keep: int) -> None:
    if not keep:
        write(folder / "last.ckpt", state)
        return
    path = numbered(folder, state["update"])
    write(path, state)
    point_to(folder / "last.ckpt", path)
    remove_older(folder, keep=keep)


def _write_shards(shards: Job, path: Path, *, keep: int) -> None:
    shards()
    if is_first_rank():
        point_to(path.parent / "last.ckpt", path)
        remove_older(path.parent, keep=max(keep, 1))  # a folder cannot take the place of another at once
