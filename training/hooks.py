"""What Lightning calls around an update: batches, frozen parts, clocks. module.py is the update itself."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from .init_from import part_named
from .randomness import set_rng_state
from .settings import TrainerSettings


class TrainingHooks(LightningModule):
    tokenizer: nn.Module
    data: Any
    settings: TrainerSettings
    frozen: tuple[str, ...]
    update: int
    samples: int

    # Read and set by those around: callbacks, run.py, checkpoint.py.
    arithmetic = ""  # the line about trainer.precision
    finished_update = False  # True right after the last micro-batch of an update
    batch_ended_at = 0.0
    between_updates = False  # True while the first batch of an update is waited for
    started_at = 0.0  # time.monotonic()
    stopped_by: int | None = None  # what ended the run early, as stopping.py numbers it
    failed_writes = 0
    rng_to_restore: dict[str, Any] | None = None

    def train(self, mode: bool = True) -> "TrainingHooks":
        super().train(mode)
        for path in self.frozen:
            if isinstance(part := part_named(self.tokenizer, path), nn.Module):
                part.eval()
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
        self.between_updates = False
        if self.rng_to_restore is not None:  # here, where nothing but training draws any more
            set_rng_state(self.rng_to_restore)
            self.rng_to_restore = None

    def on_train_batch_end(self, *_: Any) -> None:
        self.between_updates = self.finished_update
        self.batch_ended_at = time.perf_counter()  # after all callbacks: what follows is the wait for data
