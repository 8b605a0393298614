"""The values of one update: gathered on the device over micro-batches, read by the host only when a line is written."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..common.distributed import mean_over_ranks
from .logging import log_values

if TYPE_CHECKING:
    from .module import TokenizerTraining


class UpdateLog:
    """share: what one micro-batch counts, 1 / accumulate."""

    def __init__(self, *, share: float) -> None:
        self.share = share
        self.sums: dict[str, Tensor] = {}

    def begin(self) -> None:
        self.sums = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float() * self.share

    def write(self, training: "TokenizerTraining", **more: Tensor) -> None:
        """All ranks call this; the row holds their means."""
        values = self.sums | more
        numbers = torch.stack([torch.as_tensor(v, device=training.device).float() for v in values.values()])
        numbers = mean_over_ranks(numbers)
        row = dict(zip((f"train/{name}" for name in values), numbers.tolist(), strict=True))
        row |= {"train/lr": training.steppers["generator"].lr, "train/skipped_updates": training.guard.skipped}
        training.latest |= row
        log_values(training.trainer, row, update=training.update)
