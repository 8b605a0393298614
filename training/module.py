"""One generator update, then perhaps one adversary update. Knows no architecture and no loss by name."""

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..common.console import is_first_rank
from ..common.pixels import mean_psnr
from ..common.precision import Precision
from ..data.skipped import SkippedImages
from .hooks import TrainingHooks
from .optim.ema import EMA
from .optim.nonfinite import NonFiniteGuard
from .optim.stepper import build_steppers, gradients_stay_here
from .settings import TrainerSettings
from .update_log import UpdateLog


class TokenizerTraining(TrainingHooks):
    """data: gives `train_loader`, `val_loader`, `prepare_batch`. optimizer: its node. freeze: paths of tokenizer parts.

    `update` counts finished generator updates, skipped ones included; `samples` the images that all ranks have seen.
    """

    ema: EMA | None = None
    precision: Precision
    resume: "Callable[[TokenizerTraining], None] | None" = None  # fills in a checkpoint, all being on the device

    def __init__(
        self,
        *,
        tokenizer: nn.Module,
        losses: nn.Module,
        adversary: nn.Module | None,
        data: Any,
        optimizer: Mapping[str, Any],
        settings: TrainerSettings,
        freeze: Iterable[str] = (),
        run_folder: Path = Path("."),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.tokenizer, self.losses, self.adversary = tokenizer, losses, adversary
        self.data, self.optimizer_node, self.settings, self.run_folder = data, optimizer, settings, run_folder
        self.frozen, self.config = tuple(freeze), config or {}
        self.update = self.samples = self.micro_batch = 0
        self.started_at = time.monotonic()
        self.log_of_update = UpdateLog(share=1 / settings.accumulate)
        self.latest: dict[str, float] = {}  # what was logged last, for people to look at
        self.guard = NonFiniteGuard(limit=settings.max_nonfinite, networks=(tokenizer, losses, adversary))
        self.skipped = SkippedImages(folder=run_folder if is_first_rank() else None)  # run.py joins the ranks' lists

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        self.precision = Precision(name=self.settings.precision, device=self.device)
        self.steppers = build_steppers(self)
        return [s.optimizer for s in self.steppers.values()]

    def on_fit_start(self) -> None:
        if self.settings.ema is not None:
            self.ema = EMA(tokenizer=self.tokenizer, **self.settings.ema)
        if self.resume is not None:
            self.resume(self)
        self.train()

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        self.finished_update = last = self.micro_batch == self.settings.accumulate - 1
        if self.micro_batch == 0:
            self._begin_update()
        with gradients_stay_here(self.trainer, unless=last):
            output, logs = self._generator_backward(batch)
            if self.adversary is not None and self.adversary.discriminator_active(self.update):
                logs |= self._adversary_backward(batch, output)
        if output.reconstruction is not None:
            logs["psnr"] = mean_psnr(batch["image"], output.reconstruction.detach())
        self.log_of_update.add(logs)
        self.micro_batch = 0 if last else self.micro_batch + 1
        self.samples += len(batch["image"]) * self.trainer.world_size
        self.skipped.collect(batch)
        if last:
            self._finish_update(batch)
        return {"indices": {stream: ids.detach() for stream, ids in output.quantized.indices.items()}}

    def _begin_update(self) -> None:
        for part in (self.tokenizer, self.adversary):
            if part is not None:
                part.set_update(self.update)
        for stepper in self.steppers.values():
            stepper.begin(self.update)
        self.guard.begin()
        self.log_of_update.begin()

    def _generator_backward(self, batch: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
        with self.precision.autocast():
            output = self.tokenizer(batch["image"], self.tokenizer.conditions_of(batch))
            if output.reconstruction is not None:
                output.reconstruction = output.reconstruction.float()  # differences of pixels in bf16 would be rounded
            values = self.losses(batch, output, self.update)
            total, logs = values.total, values.raw
            if self.adversary is not None and self.adversary.generator_active(self.update):
                against = values.sum_of(self.adversary.reconstruction_terms)
                gan, more = self.adversary.generator_loss(batch, output, against, self.tokenizer.last_layer)
                total, logs = total + gan, logs | more
        self.manual_backward(self.steppers["generator"].scaled(total / self.settings.accumulate))
        return output, logs | {"total": total}

    def _adversary_backward(self, batch: Mapping[str, Any], output: Any) -> dict[str, Tensor]:
        with self.precision.autocast():
            loss, logs = self.adversary.discriminator_loss(batch, output)
        self.manual_backward(self.steppers["adversary"].scaled(loss / self.settings.accumulate))
        return logs

    def _finish_update(self, batch: Mapping[str, Any]) -> None:
        active = [s for s in self.steppers.values() if any(p.grad is not None for p in s.parameters)]
        norms = [stepper.finish_gradients() for stepper in active]
        finite = self.guard.passes(norms, self.log_of_update.sums, self.named_parameters())
        for stepper in active:
            stepper.step(finite=finite)
        self.update += 1
        if finite and self.ema is not None:
            self.ema.update(self.tokenizer, self.update)
        if self.update % self.settings.log_every == 0 or self.update == 1:
            self.log_of_update.write(self, grad_norm=norms[0])
        self.guard.check_limit(self, batch)
