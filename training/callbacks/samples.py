"""The same few images through the tokenizer as it learns: input, reconstruction, absolute difference."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ...common.console import say
from ...common.errors import one_line
from ...common.files import write_atomically
from ..module import TokenizerTraining


class Samples(Callback):
    """every: updates between two files; the first and the last update have one in any case. images: columns."""

    def __init__(self, *, every: int = 500, images: int = 8) -> None:
        if every < 1 or images < 1:
            raise ValueError(f"every={every}, images={images}: both 1 or more")
        self.every, self.images = every, images
        self.batch: dict[str, Any] | None = None
        self.drawn_at = -1

    def on_train_batch_end(self, trainer: Trainer, training: TokenizerTraining, *_: Any) -> None:
        if training.finished_update and (training.update == 1 or training.update % self.every == 0):
            self.draw(trainer, training)

    def on_train_end(self, trainer: Trainer, training: TokenizerTraining) -> None:
        if self.drawn_at != training.update:
            self.draw(trainer, training)

    def draw(self, trainer: Trainer, training: TokenizerTraining) -> None:
        self.drawn_at = training.update
        with training.as_exported():  # all processes: weights may be sharded
            if not trainer.is_global_zero:
                return
            if self.batch is None:
                self.batch = fixed_images(training, self.images)
            rows = image_rows(training, self.batch)
        path = training.run_folder / "samples" / f"update_{training.update:08d}.png"
        try:
            write_atomically(path, lambda file: Image.fromarray(grid(rows).numpy()).save(file, format="PNG"))
        except OSError as error:
            say(f"{path.name} could not be written, training goes on: {one_line(error)}", error=True)
        else:
            log_image(trainer, "samples", path, update=training.update)


def fixed_images(training: TokenizerTraining, count: int) -> dict[str, Any]:
    """The first held-out images, in their fixed order, with their captions where they have some."""
    pieces: list[Tensor] = []
    captions: list[str] = []
    for batch in training.data.val_loader(max_images=count):
        pieces.append(training.data.prepare_batch(batch, training.device)["image"].cpu())
        captions += batch.get("caption") or []
        if sum(map(len, pieces)) >= count:
            break
    return {"image": torch.cat(pieces)[:count], "caption": captions[:count] or None}


@torch.no_grad()
def image_rows(training: TokenizerTraining, batch: dict[str, Any]) -> list[Tensor]:
    """Input, reconstruction and difference: three [B, 3, H, W] in [0, 1]."""
    tokenizer, images = training.tokenizer, batch["image"].to(training.device)
    training.eval()
    with training.precision.autocast():
        made = tokenizer.reconstruct(images, conditions=tokenizer.conditions_of(batch)).float()
    training.train()
    given, made = (images.float() + 1) / 2, (made.clamp(-1, 1) + 1) / 2
    return [given, made, (given - made).abs()]


def grid(rows: list[Tensor], gap: int = 2) -> Tensor:
    """uint8 [H, W, 3] on white, one image a column."""
    images = F.pad(torch.stack(rows), (0, gap, 0, gap), value=1.0)  # rows, columns, 3, H, W
    canvas = images.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)[:-gap, :-gap]
    return canvas.mul(255).round().clamp(0, 255).to(torch.uint8).cpu()


def log_image(trainer: Trainer, name: str, path: Path, *, update: int) -> None:
    """A PNG on disk, to TensorBoard and wandb where they were chosen."""
    for logger in trainer.loggers:
        experiment: Any = getattr(logger, "experiment", None)
        if hasattr(logger, "log_image"):  # wandb
            logger.log_image(key=name, images=[str(path)], step=update)
        elif hasattr(experiment, "add_image"):  # TensorBoard
            experiment.add_image(name, np.asarray(Image.open(path)), update, dataformats="HWC")
