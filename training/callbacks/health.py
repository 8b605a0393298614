"""Says in words when a GAN or a codebook goes wrong, and which key to turn."""

from typing import Any

from lightning.pytorch import Callback, Trainer

from ..module import TokenizerTraining
from ..reporting import say

# (name, logged value, what is wrong, is it?, what to try)
RULES = (
    (
        "gan_weight",
        lambda v: v > 1e3,
        "the adaptive GAN weight is huge",
        "a later adversary.start, or adversary.adaptive.maximum",
    ),
    (
        "gan_discriminator",
        lambda v: v < 0.02,
        "the discriminator has won",
        "adversary.lecam, a lower adversary.optimizer.lr",
    ),
    (
        "usage",
        lambda v: v < 0.05,
        "few codes are used",
        "loss.entropy, a smaller codebook, revival in tokenizer.quantizer",
    ),
    ("data_wait", lambda v: v > 0.5, "most of the time goes to waiting for images", "more data.num_workers"),
)


class Health(Callback):
    """patience: logged values in a row that have to be bad before a line is printed, once a rule."""

    def __init__(self, *, patience: int = 20) -> None:
        self.patience = patience
        self.bad: dict[str, int] = {}

    def on_train_batch_end(self, trainer: Trainer, training: TokenizerTraining, *_: Any) -> None:
        if not training.finished_update or training.update % training.settings.log_every:
            return
        for name, is_bad, wrong, remedy in RULES:
            value = training.latest.get(f"train/{name}")
            if value is None:
                continue
            self.bad[name] = self.bad.get(name, 0) + 1 if is_bad(value) else 0
            if self.bad[name] == self.patience:
                say(f"health: {wrong} (train/{name}={value:.3g} at update {training.update}); try {remedy}")
