"""The values of one update: summed on the device over micro-batches, read by the host only where a row is logged."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..common.distributed import mean_over_ranks


class UpdateLog:
    """share: the weight of one micro-batch, 1 / accumulate."""

    def __init__(self, *, share: float) -> None:
        self.share = share
        self.sums: dict[str, Tensor] = {}

    def begin(self) -> None:
        self.sums = {}

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach().float() * self.share

    def means(self, **more: Tensor) -> dict[str, float]:
        """The means over all ranks, which all have to call this; the host waits for the device here."""
        values = self.sums | more
        numbers = mean_over_ranks(torch.stack([value.detach().float() for value in values.values()]))
        return dict(zip(values, numbers.tolist(), strict=True))
