"""Says in words when a GAN or a codebook goes wrong, and which key to turn."""

from typing import Any

from lightning.pytorch import Callback, Trainer

from ...common.console import say
from ..health_limits import DATA_WAIT, DISCRIMINATOR_LOSS, GAN_WEIGHT, REMEDIES, USAGE
from ..module import TokenizerTraining

# (logged value, is it bad?, in words)
RULES = (
    ("gan_weight", lambda v: v > GAN_WEIGHT, "the adaptive GAN weight is huge"),
    ("gan_discriminator", lambda v: v < DISCRIMINATOR_LOSS, "the discriminator has won"),
    ("usage", lambda v: v < USAGE, "few codes are used"),
    ("data_wait", lambda v: v > DATA_WAIT, "much of the time goes to waiting for images"),
)


class Health(Callback):
    """patience: logged values in a row that have to be bad before a line is printed, once a rule."""

    def __init__(self, *, patience: int = 20) -> None:
        self.patience = patience
        self.bad: dict[str, int] = {}
        self.looked_at = 0

    def on_train_start(self, trainer: Trainer, training: TokenizerTraining) -> None:
        self.looked_at = training.update

    def on_train_epoch_end(self, trainer: Trainer, training: TokenizerTraining) -> None:
        self.on_train_batch_start(trainer, training)

    def on_train_batch_start(self, trainer: Trainer, training: TokenizerTraining, *_: Any) -> None:
        """All callbacks have logged the update before by now, in whatever order they stand."""
        if training.update == self.looked_at or training.update % training.settings.log_every:
            return
        self.looked_at = training.update
        for name, is_bad, wrong in RULES:
            value = trainer.callback_metrics.get(f"train/{name}")
            if value is None:
                continue
            self.bad[name] = self.bad.get(name, 0) + 1 if is_bad(float(value)) else 0
            if self.bad[name] == self.patience:
                at = f"train/{name}={float(value):.3g} at update {training.update}"
                say(f"health: {wrong} ({at}); try {REMEDIES[name]}")
