"""Progress of a run: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import Tensor

from ..module import TokenizerTraining

SHOWN = {
    "total": "loss {:.4f}",
    "l1": "l1 {:.4f}",
    "psnr": "PSNR {:.2f}",
    "usage": "usage {:.1%}",
    "images_per_second": "img/s {:.0f}",
}


class Progress(Callback):
    """seconds_between_lines: where the output is no terminal."""

    def __init__(self, *, seconds_between_lines: float = 10.0) -> None:
        self.seconds_between_lines = seconds_between_lines
        self.bar: Any = None

    def on_train_start(self, trainer: Trainer, training: TokenizerTraining) -> None:
        self.first, self.began, self.spoke = training.update, time.monotonic(), 0.0
        if trainer.is_global_zero and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (MofNCompleteColumn(), BarColumn(), TimeRemainingColumn(), TextColumn("{task.fields[facts]}"))
            self.bar = Progress(*columns, refresh_per_second=4)
            self.bar.start()
            total = training.settings.max_updates
            self.task = self.bar.add_task("updates", total=total, completed=training.update, facts="")

    def on_train_batch_end(self, trainer: Trainer, training: TokenizerTraining, *_: Any) -> None:
        if not (trainer.is_global_zero and training.finished_update):
            return
        if self.bar is not None:
            self.bar.update(self.task, completed=training.update, facts=facts(trainer.callback_metrics))
            return
        now = time.monotonic()
        if now - self.spoke >= self.seconds_between_lines or training.update == training.settings.max_updates:
            self.spoke = now
            where = f"update {training.update}/{training.settings.max_updates}"
            print(f"{where}  {facts(trainer.callback_metrics)}{self._left(training, now)}", flush=True)

    def on_train_end(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_exception(self, *_: Any) -> None:
        self.on_train_end()

    def _left(self, training: TokenizerTraining, now: float) -> str:
        done, left = training.update - self.first, training.settings.max_updates - training.update
        if not (done and left):
            return ""
        seconds = int((now - self.began) / done * left)
        return f"  {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left"


def facts(logged: Mapping[str, Tensor]) -> str:
    """Each only where something measured it."""
    words = [form.format(float(logged[f"train/{key}"])) for key, form in SHOWN.items() if f"train/{key}" in logged]
    if skipped := int(logged.get("train/skipped_updates", 0)):
        words.append(f"skipped {skipped}")
    return "  ".join(words)
