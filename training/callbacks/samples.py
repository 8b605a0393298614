"""The same few images through the tokenizer as it learns: input, reconstruction, absolute difference."""

from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch import Tensor

from ...common.console import say
from ...common.errors import one_line
from ...common.files import write_atomically
from ..logging import log_picture
from ..module import TokenizerTraining
from ..randomness import own_randomness


class Samples(Callback):
    """every: updates between two pictures; the first and the last update have one in any case. images: columns."""

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
        if not trainer.is_global_zero:
            return
        with own_randomness(0):
            if self.batch is None:
                self.batch = fixed_images(training, self.images)
            rows = picture_rows(training, self.batch)
        path = training.run_folder / "samples" / f"update_{training.update:08d}.png"
        try:
            write_atomically(path, lambda file: Image.fromarray(grid(rows).numpy()).save(file, format="PNG"))
        except OSError as error:
            say(f"{path.name} could not be written, training goes on: {one_line(error)}", error=True)
        else:
            log_picture(trainer, "samples", path, update=training.update)


def fixed_images(training: TokenizerTraining, count: int) -> dict[str, Any]:
    """The first held-out images, in their fixed order, with their captions where they have some."""
    pieces: list[Tensor] = []
    captions: list[str] = []
    for batch in training.data.val_loader(max_images=count):
        if batch["image"] is None:
            continue
        pieces.append(training.on_after_batch_transfer(batch, 0)["image"].cpu())
        captions += batch.get("caption") or []
        if sum(map(len, pieces)) >= count:
            break
    return {"image": torch.cat(pieces)[:count], "caption": captions[:count] or None}


@torch.no_grad()
def picture_rows(training: TokenizerTraining, batch: dict[str, Any]) -> list[Tensor]:
    """Three [B, 3, H, W] in [0, 1]."""
    tokenizer, images = training.tokenizer, batch["image"].to(training.device)
    training.eval()
    with (
        training.ema.swapped_in(tokenizer) if training.ema is not None else nullcontext(),
        training.precision.autocast(),
    ):
        made = tokenizer.reconstruct(images, conditions=tokenizer.conditions_of(batch)).float()
    training.train()
    given, made = (images.float() + 1) / 2, (made.clamp(-1, 1) + 1) / 2
    return [given, made, (given - made).abs()]


def grid(rows: list[Tensor], gap: int = 2) -> Tensor:
    """uint8 [H, W, 3] on white, one image a column."""
    columns, height, width = len(rows[0]), *rows[0].shape[-2:]
    canvas = torch.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=torch.uint8)
    for r, row in enumerate(rows):
        for c, image in enumerate(row.cpu()):
            top, left = r * (height + gap), c * (width + gap)
            pixels = (image * 255).round().clamp(0, 255).to(torch.uint8)
            canvas[top : top + height, left : left + width] = pixels.permute(1, 2, 0)
    return canvas
