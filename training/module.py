"""One generator update, then perhaps one adversary update. Knows no architecture and no loss by name."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data.skipped import SkippedImages
from .ema import EMA
from .nonfinite import BufferGuard, NonFiniteGuard, find_cause, stop
from .precision import Precision
from .psnr import mean_psnr
from .randomness import set_rng_state
from .settings import TrainerSettings
from .stepper import build_steppers
from .update_log import UpdateLog


class TokenizerTraining(LightningModule):
    """data: gives `train_loader`, `val_loader`, `prepare_batch`. optimizer: its node. freeze: names of tokenizer parts.

    `update` counts finished generator updates, skipped ones included; `samples` the images that all ranks have seen.
    """

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
        self.finished_update = False  # True right after the last micro-batch of an update
        self.log_of_update = UpdateLog(share=1 / settings.accumulate)
        self.latest: dict[str, float] = {}  # what was logged last, for people to look at
        self.guard = NonFiniteGuard(limit=settings.max_nonfinite)
        self.skipped = SkippedImages(folder=run_folder)
        self.resume: Callable[[TokenizerTraining], None] | None = None  # fills in a checkpoint, all being on the device
        self.rng_to_restore: dict[str, Any] | None = None
        self.ema: EMA | None = None
        self.precision: Precision | None = None
        self.batch_ended_at = 0.0
        self.stopped_by: int | None = None  # number of the signal that ended the run early
        self.failed_writes = 0

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        self.precision = Precision(name=self.settings.precision, device=self.device)
        self.steppers = build_steppers(self)
        return [s.optimizer for s in self.steppers.values()]

    def on_fit_start(self) -> None:
        if self.settings.ema is not None:
            self.ema = EMA(tokenizer=self.tokenizer, **self.settings.ema)
        if self.resume is not None:
            self.resume(self)
        self.buffer_guard = BufferGuard([self.tokenizer, self.adversary])
        self.train()

    def train(self, mode: bool = True) -> "TokenizerTraining":
        super().train(mode)
        for name in self.frozen:
            getattr(self.tokenizer, name).eval()
        return self

    def train_dataloader(self) -> DataLoader:
        left = (self.settings.max_updates - self.update) * self.settings.accumulate
        return self.data.train_loader(start_sample=self.samples, num_batches=left)

    def on_after_batch_transfer(self, batch: Mapping[str, Any], dataloader_idx: int) -> Mapping[str, Any]:
        batch = dict(self.data.prepare_batch(batch, self.device))
        if self.settings.channels_last:
            batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
        return batch

    def on_train_batch_start(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        if self.rng_to_restore is not None:  # here, where nothing but training draws any more
            set_rng_state(self.rng_to_restore)
            self.rng_to_restore = None

    def on_train_batch_end(self, *_: Any) -> None:
        self.batch_ended_at = time.perf_counter()  # after all callbacks: what follows is the wait for data

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> dict[str, Any]:
        last = self.micro_batch == self.settings.accumulate - 1
        if self.micro_batch == 0:
            self._begin_update()
        with nullcontext() if last else self._without_sync():
            output, logs = self._generator_backward(batch)
            if self.adversary is not None and self.adversary.discriminator_active(self.update):
                logs |= self._adversary_backward(batch, output)
        if output.reconstruction is not None:
            logs["psnr"] = mean_psnr(batch["image"], output.reconstruction.detach())
        self.log_of_update.add(logs)
        self.micro_batch = 0 if last else self.micro_batch + 1
        self.finished_update = last
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
        self.buffer_guard.keep()
        self.log_of_update.begin()

    def _generator_backward(self, batch: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
        with self.precision.autocast():
            output = self.tokenizer(batch["image"])
            if output.reconstruction is not None:
                output.reconstruction = output.reconstruction.float()  # differences of pixels in bf16 would be rounded
            values = self.losses(batch, output, self.update)
            total, logs = values.total, dict(values.raw)
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
        finite = self.guard.all_finite([*norms, *self.log_of_update.sums.values()])
        cause = "" if finite else find_cause(self.log_of_update.sums, self.named_parameters())
        for stepper in active:
            stepper.step(finite=finite)
        if finite:
            self.guard.passed()
        else:
            self.buffer_guard.put_back()
        self.update += 1
        if finite and self.ema is not None:
            self.ema.update(self.tokenizer, self.update)
        must_stop = not finite and self.guard.failed(cause)
        if self.update % self.settings.log_every == 0 or self.update == 1:
            self.log_of_update.write(self, grad_norm=norms[0])
        if must_stop:
            stop(self, batch)

    def _without_sync(self) -> AbstractContextManager:
        model = self.trainer.strategy.model
        return model.no_sync() if hasattr(model, "no_sync") else nullcontext()
