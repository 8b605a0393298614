"""Losses, PSNR and codebook use on held-out images, with the weights that would be exported."""

from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from ...common.distributed import gather_objects
from ...common.pixels import psnr_per_image
from ...eval.metrics.codebook import Codebook
from ..logging import log_values
from ..module import TokenizerTraining
from ..randomness import own_randomness


class Validation(Callback):
    """Every trainer.validate_every updates and at the end, on at most trainer.val_images images."""

    def __init__(self) -> None:
        self.done_at = -1

    def on_train_batch_end(self, trainer: Trainer, training: TokenizerTraining, *_: Any) -> None:
        if training.finished_update and training.update % training.settings.validate_every == 0:
            self._run(trainer, training)

    def on_train_end(self, trainer: Trainer, training: TokenizerTraining) -> None:
        if self.done_at != training.update and training.stopped_by is None:
            self._run(trainer, training)

    def _run(self, trainer: Trainer, training: TokenizerTraining) -> None:
        self.done_at = training.update
        values = validate(training)
        training.latest |= values
        log_values(trainer, values, update=training.update)


@torch.no_grad()
def validate(training: TokenizerTraining) -> dict[str, float]:
    """The ranks share the images; training's generators and weights are as before afterwards."""
    tokenizer = training.tokenizer
    codebook: Codebook | None = None
    sums: dict[str, torch.Tensor] = {}
    images = 0
    swapped = training.ema.swapped_in(tokenizer) if training.ema is not None else nullcontext()
    training.eval()
    with own_randomness(0), swapped:
        for batch in training.data.val_loader(max_images=training.settings.val_images):
            training.skipped.collect(batch)
            if batch["image"] is None:  # not one of its files could be read
                continue
            batch = training.on_after_batch_transfer(batch, 0)
            count = len(batch["image"])
            with training.precision.autocast():
                conditions = tokenizer.conditions_of(batch)
                output = tokenizer(batch["image"], conditions)
                if output.reconstruction is None:
                    output.reconstruction = tokenizer.decode(output.quantized.codes, conditions=conditions)
                    output.features |= tokenizer.taps.collect()
                output.reconstruction = output.reconstruction.float()
                values = {
                    name: term(batch, output) for name, term in training.losses.terms.items() if _readable(term, output)
                }
            values["psnr"] = psnr_per_image(batch["image"], output.reconstruction).mean()
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value.detach().double().cpu() * count
            if output.quantized.indices:
                if codebook is None:
                    layout = tokenizer.index_layout(tuple(batch["image"].shape[-2:]))
                    codebook = Codebook(
                        layout=layout, sync_on_compute=False
                    )  # a rank may have no image, and so no codebook
                codebook.update(indices=output.quantized.indices)
            images += count
    training.train()
    sums, images, codebook = _over_ranks(sums, images, codebook)
    result = {f"val/{name}": float(value) / images for name, value in sums.items()} if images else {}
    if codebook is not None:
        facts = codebook.result()
        result |= {"val/usage": facts["usage"], "val/perplexity": facts["perplexity"]}
    return result


def _readable(term: torch.nn.Module, output: Any) -> bool:
    """Quantizer and decoder give their own losses in training mode only."""
    key = getattr(term, "key", None)
    return term.is_available(output) and (key is None or key in output.quantized.losses or key in output.decoder_losses)


def _over_ranks(sums: dict, images: int, codebook: Codebook | None) -> tuple:
    if codebook is not None:
        codebook.to("cpu")
    parts = gather_objects((sums, images, codebook))
    sums, images, codebook = parts[0]
    for more, count, books in parts[1:]:
        images += count
        for name, value in more.items():
            sums[name] = sums.get(name, 0) + value
        if books is not None:
            if codebook is None:
                codebook = books
            else:
                codebook.merge_state(books)
    return sums, images, codebook
