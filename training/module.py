"""One generator update, then perhaps one adversary update. Knows no architecture and no loss by name.

Of Lightning this uses: processes and devices; the loops over `ImageData`'s loaders (`trainer.fit(training,
datamodule=data)`, `trainer.validate`); `validation_step`; `self.optimizers()`, so that `on_before_optimizer_step` and
the step counters work; `self.log` and `trainer.callback_metrics`; callbacks, loggers, profilers. Two networks are
trained in turn, which Lightning allows in manual optimisation only, so clipping, accumulation, loss scales and learning
rates are ours (optim/). `trainer.global_step` then counts the steps of both optimizers; schedules, checkpoints and rows
of metrics count `training.update` instead. Lightning's checkpoints (`on_save_checkpoint`, `on_load_checkpoint`,
ModelCheckpoint) and its EMA callback are not used: a resumed run would read other images, draw other random numbers and
keep the frozen networks of the losses in the file (checkpoint.py, docs/log.md). A run is a single epoch.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import nn

from ..common.console import is_first_rank
from ..common.distributed import all_finite, mean_over_ranks
from ..common.errors import UserError
from ..common.pixels import mean_psnr
from ..common.precision import Precision, tf32
from ..common.types import TokenizerOutput
from ..data.datamodule import ImageData
from ..data.skipped import SkippedImages
from ..losses.adversarial.adversary import Adversary
from ..losses.total import WeightedLosses
from ..tokenizers.tokenizer import Tokenizer
from .fsdp2 import whole_weights
from .init_from import part_named
from .objectives import InOneProcess, Objectives
from .optim.ema import EMA
from .optim.nonfinite import NonFiniteGuard, advice
from .optim.stepper import Stepper, networks_of
from .randomness import own_randomness, set_rng_state
from .settings import TrainerSettings
from .stopping import StopRequest
from .validation_means import ValidationMeans


class TokenizerTraining(LightningModule):
    """optimizer: its node. arithmetic: the line about trainer.precision, for the user.

    `update` counts finished generator updates, skipped ones included; `samples` the images that all ranks have seen.
    """

    tokenizer: Tokenizer
    losses: WeightedLosses
    adversary: Adversary | None

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        losses: WeightedLosses,
        adversary: Adversary | None,
        optimizer: Mapping[str, Any],
        settings: TrainerSettings,
        run_folder: Path = Path("."),
        config: Mapping[str, Any] | None = None,
        arithmetic: str = "",
    ) -> None:
        super().__init__()
        if adversary is not None and adversary.discriminator_first and settings.micro_batches > 1:
            raise UserError(
                f"trainer.accumulate={settings.accumulate}: with adversary.order=discriminator_first the generator's "
                "loss needs the stepped discriminator, so an update is one micro-batch: accumulate=1, generator_first"
            )
        self.automatic_optimization = False
        self.tokenizer, self.losses, self.adversary = tokenizer, losses, adversary
        self.settings, self.run_folder, self.config = settings, run_folder, config or {}
        self.arithmetic = arithmetic
        self.objectives = Objectives(tokenizer=tokenizer, losses=losses, adversary=adversary)
        self.networks = networks_of(self.objectives, optimizer)
        self.steppers: dict[str, Stepper] = {}
        self.trained: dict[str, InOneProcess] = {}  # the objectives, by the names of the steppers
        self.ema: EMA | None = None
        self.update = self.samples = self.micro_batch = 0
        self.started_at = time.monotonic()
        self.finished_update = False  # True right after the last micro-batch of an update
        self.between_updates = False  # True while the first batch of an update is waited for
        self.sums: dict[str, torch.Tensor] = {}  # of this update's values, on the device
        self.stepped_early: set[str] = set()  # networks whose step of this update is over
        self.guard = NonFiniteGuard(limit=settings.max_nonfinite, networks=(tokenizer, losses, adversary))
        self.skipped = SkippedImages(folder=run_folder if is_first_rank() else None)  # run.py joins the ranks' lists
        self.validation = ValidationMeans()
        self._as_exported = ExitStack()

        # Set by callbacks, run.py and checkpoint.py.
        self.resume: Callable[[TokenizerTraining], None] | None = None  # fills in a checkpoint, all being on the device
        self.rng_to_restore: dict[str, Any] | None = None
        self.stop = StopRequest()  # of the Checkpoint callback, which acts on it
        self.stopped_by: int | None = None  # what ended the run early, as stopping.py numbers it
        self.failed_writes = 0
        self.batch_ended_at = 0.0

    # -- before the first batch -------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        self.precision = Precision(name=self.settings.precision, device=self.trainer.strategy.root_device)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        settings, scaler = self.settings, self.precision.scaler
        self.steppers = {
            name: Stepper(network, max_updates=settings.max_updates, clip=settings.clip, scaler=scaler())
            for name, network in self.networks.items()
        }
        return [stepper.optimizer for stepper in self.steppers.values()]

    def on_fit_start(self) -> None:
        self.fill_in()
        wrapped = getattr(self.trainer.strategy, "wrapped", InOneProcess)  # what several processes need: ddp.py
        self.trained = {name: wrapped(objective) for name, objective in self.objectives.modules.items()}
        for stepper in self.steppers.values():
            stepper.set_rate(self.update)
        left = (self.settings.max_updates - self.update) * self.settings.micro_batches
        self.data.begin_at(self.samples, num_batches=left, max_val_images=self.settings.val_images)
        self._count_for_lightning(self.update)
        self.train()

    def on_fit_end(self) -> None:
        self.trained = {}  # DDP holds memory for all gradients, which an evaluation can use

    def fill_in(self) -> None:
        """The EMA, and what a checkpoint holds; once."""
        if self.settings.ema is not None and self.ema is None:
            self.ema = EMA(tokenizer=self.tokenizer, **self.settings.ema)
        if self.resume is not None:
            self.resume(self)
            self.resume = None

    def _count_for_lightning(self, update: int) -> None:
        """Callbacks log at this number (LearningRateMonitor); its own counts the batches of this process."""
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = update

    @property
    def data(self) -> ImageData:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def callbacks(self) -> list[Callback]:
        """Of the trainer; none before it has taken this module."""
        return list(self.trainer.callbacks) if self._trainer is not None else []  # type: ignore[attr-defined]

    def train(self, mode: bool = True) -> "TokenizerTraining":
        """Frozen parts stay in eval mode."""
        super().train(mode)
        for path in self.tokenizer.frozen:
            if isinstance(part := part_named(self.tokenizer, path), nn.Module):
                part.eval()
        return self

    # -- one micro-batch --------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        self.between_updates = False
        if self.rng_to_restore is not None:  # here, where nothing but training draws any more
            set_rng_state(self.rng_to_restore)
            self.rng_to_restore = None

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        self.finished_update = last = self.micro_batch == self.settings.micro_batches - 1
        self._set_memory_format(batch)
        if self.micro_batch == 0:
            self._begin_update()
        logs: dict[str, torch.Tensor] = {}
        first = None
        if self.adversary is not None and self.adversary.discriminator_first:

            def first(output: TokenizerOutput) -> None:
                with torch.autocast(self.device.type, enabled=False):
                    logs.update(self._train_discriminator(batch, output, last=last))
                    self._step_early("adversary")

        with self.precision.autocast():
            conditions = self.tokenizer.conditions_of(batch)
            total, made = self.trained["generator"](batch, conditions, self.update, first, last=last)
        output = made.output
        self._backward("generator", total, last=last)
        logs |= made.logs
        if first is None:
            logs |= self._train_discriminator(batch, output, last=last)
        logs["total"] = total
        if output.reconstruction is not None:
            logs["psnr"] = mean_psnr(batch["image"], output.reconstruction.detach())
        for name, value in logs.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float() / self.settings.micro_batches
        self.micro_batch = 0 if last else self.micro_batch + 1
        self.samples += len(batch["image"]) * self.trainer.world_size
        self.skipped.collect(batch)
        if last:
            self._finish_update(batch)
        return {"indices": {stream: ids.detach() for stream, ids in output.quantized.indices.items()}}

    def on_train_batch_end(self, *_: Any) -> None:
        """After all callbacks."""
        if self.logs_now or self.trainer.should_stop:  # the row that Lightning puts numbers of other callbacks into
            self.log("step", torch.tensor(float(self.update)))
        self._count_for_lightning(self.update - 1)  # it adds one
        self.between_updates = self.finished_update
        self.batch_ended_at = time.perf_counter()  # what follows is the wait for data

    def _set_memory_format(self, batch: dict[str, Any]) -> None:
        if self.settings.channels_last:
            batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)

    def _begin_update(self) -> None:
        self.objectives.set_update(self.update)
        if self.settings.micro_batches > 1:
            self.objectives.begin_update()
        for stepper in self.steppers.values():
            for callback in self.callbacks:
                callback.on_before_zero_grad(self.trainer, self, stepper.optimizer)
            stepper.optimizer.zero_grad(set_to_none=True)
        self.guard.begin()
        self.sums, self.stepped_early = {}, set()

    def _train_discriminator(
        self, batch: Mapping[str, Any], output: TokenizerOutput, *, last: bool
    ) -> dict[str, torch.Tensor]:
        if not self.objectives.trains_discriminator(self.update):
            return {}
        with self.precision.autocast():
            loss, made = self.trained["adversary"](batch, output, last=last)
        self._backward("adversary", loss, last=last)
        return made.logs

    def _step_early(self, network: str) -> None:
        """Before the other network's loss is computed; `_finish_update` then leaves this one alone.

        Gradients that are not finite skip the whole update. Where only the generator's are not, this step stays.
        """
        stepper, optimizer = self.steppers[network], self._wrapped_optimizers()[network]
        if all(p.grad is None for p in stepper.parameters):
            return
        stepper.step_if(all_finite(stepper.finish_gradients()), optimizer)
        self.stepped_early.add(network)

    def _wrapped_optimizers(self) -> dict[str, LightningOptimizer]:
        """Lightning's wrappings, whose steps call the callbacks."""
        optimizers = self.optimizers()
        wrapped = optimizers if isinstance(optimizers, list) else [optimizers]
        assert all(isinstance(optimizer, LightningOptimizer) for optimizer in wrapped)
        return dict(zip(self.steppers, wrapped, strict=True))  # type: ignore[arg-type]

    def _backward(self, network: str, loss: torch.Tensor, *, last: bool) -> None:
        self.manual_backward(self.steppers[network].scaled(loss / self.settings.micro_batches))
        if last:
            self.trained[network].finish()

    def _finish_update(self, batch: Mapping[str, Any]) -> None:
        self.objectives.finish_update()
        active = {name: s for name, s in self.steppers.items() if any(p.grad is not None for p in s.parameters)}
        norms = [s.norm if name in self.stepped_early else s.finish_gradients() for name, s in active.items()]
        self.stop.watch_clock(started_at=self.started_at, max_seconds=self.settings.max_seconds)
        asked = self.stop.asked_by or 0
        finite = self.guard.passes(norms, self.sums, self.named_parameters(), asked=asked)
        optimizers = self._wrapped_optimizers()
        for name, stepper in active.items():
            if name not in self.stepped_early:
                stepper.step(optimizers[name], finite=finite)
        self.losses.after_step()
        lr = self.steppers["generator"].lr
        self.update += 1
        for stepper in self.steppers.values():
            stepper.set_rate(self.update)
        if finite and self.ema is not None:
            self.ema.update(self.tokenizer, self.update)
        if self.reports_now:
            measured = self.sums | {"grad_norm": norms[0]}
            means = mean_over_ranks(torch.stack([value.detach().float() for value in measured.values()])).tolist()
            values = {f"train/{name}": mean for name, mean in zip(measured, means, strict=True)}
            self.report(values | {"train/lr": lr, "train/skipped_updates": self.guard.skipped})
        if self.guard.exhausted:
            facts = {"precision": self.precision.name, "lr": lr} | self.sums
            path = self.run_folder / f"nonfinite_batch_rank{self.global_rank}.pt"
            raise UserError(f"update {self.update}: {advice(self.guard, batch, facts=facts, save_to=path)}")

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """After that of the callbacks, which see gradients before they are clipped, as Lightning promises."""
        for stepper in self.steppers.values():
            if stepper.optimizer is optimizer:
                stepper.clip_gradients()

    @property
    def logs_now(self) -> bool:
        return self.finished_update and self.update % self.settings.log_every == 0

    @property
    def reports_now(self) -> bool:
        return self.logs_now or (self.finished_update and self.update == 1)

    def report(self, values: Mapping[str, float]) -> None:
        """Numbers of the update that has just finished: a row of all loggers, and `trainer.callback_metrics`.

        From a training hook, on all ranks alike. Written here and not by Lightning, which would skip the first update
        and repeat numbers that an update did not have.
        """
        self.log_dict({k: torch.tensor(float(v)) for k, v in values.items()}, logger=False, on_step=True)
        if self.trainer.is_global_zero:
            for logger in self.trainer.loggers:
                logger.log_metrics(dict(values), step=self.update)

    # -- held-out images --------------------------------------------------------------------------------------------

    @contextmanager
    def as_exported(self) -> Iterator[None]:
        """Inside, the tokenizer has the weights of the EMA, and random numbers are not those of the training."""
        mean = self.ema.swapped_in(self.tokenizer) if self.ema is not None else nullcontext()
        with own_randomness(0), tf32(False, self.device), mean, whole_weights(self.tokenizer):
            yield

    def on_validation_start(self) -> None:
        self.fill_in()  # trainer.validate, without a fit before
        self._as_exported.enter_context(self.as_exported())
        self.validation = ValidationMeans()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Losses, PSNR and use of the codes, with the weights that would be exported."""
        self.skipped.collect(batch)
        self._set_memory_format(batch)
        tokenizer = self.tokenizer
        with self.precision.autocast():
            conditions = tokenizer.conditions_of(batch)
            output = tokenizer(batch["image"], conditions)
            if output.reconstruction is None:
                output.reconstruction = tokenizer.decode(output.quantized.codes, conditions=conditions)
                output.features |= tokenizer.taps.collect()
            output.reconstruction = output.reconstruction.float()
            values = self.losses.values_of(batch, output)
        values["psnr"] = mean_psnr(batch["image"], output.reconstruction)
        size = (int(batch["image"].shape[-2]), int(batch["image"].shape[-1]))
        layout = tokenizer.index_layout(size) if output.quantized.indices else ()
        self.validation.add(values, output.quantized.indices, layout, count=len(batch["image"]))

    def on_validation_epoch_end(self) -> None:
        """Logs the means; from here on the weights and random numbers are the training's again."""
        values = {f"val/{name}": torch.tensor(value) for name, value in self.validation.result().items()}
        self.log_dict(values | {"step": torch.tensor(float(self.update))})
        self.leave_validation()

    def leave_validation(self) -> None:
        self._as_exported.close()

    def on_validation_end(self) -> None:
        self.batch_ended_at = time.perf_counter()  # not a wait for data
