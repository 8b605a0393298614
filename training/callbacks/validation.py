"""When to validate; what is measured then is `TokenizerTraining.validation_step`."""

from typing import Any

from lightning.pytorch import Callback, Trainer

from ..module import TokenizerTraining


class Validation(Callback):
    """Every trainer.validate_every updates and at the end. Without this callback a run does not validate."""

    def on_train_batch_end(self, trainer: Trainer, training: TokenizerTraining, *_: Any) -> None:
        # Set anew after each batch, because Lightning counts the micro-batches of this process and not the updates.
        due = training.finished_update and training.update % training.settings.validate_every == 0
        trainer.val_check_batch = 1 if due else float("inf")


def validation_follows(trainer: Trainer) -> bool:
    """Whether Lightning validates once the callbacks have seen the end of this batch."""
    last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or trainer.should_stop
    return trainer.enable_validation and bool(last or trainer.val_check_batch == 1)
