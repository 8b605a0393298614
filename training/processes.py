"""What training needs to know about the other processes of a run."""

from contextlib import AbstractContextManager, nullcontext

from lightning.pytorch import Trainer


def gradients_stay_here(trainer: Trainer, *, unless: bool) -> AbstractContextManager:
    """DDP averages gradients in every backward; before the last micro-batch of an update that would be for nothing."""
    model = trainer.strategy.model
    return model.no_sync() if hasattr(model, "no_sync") and not unless else nullcontext()
