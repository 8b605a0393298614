"""Mean absolute difference, in units of the full range (0 to 1)."""

from typing import Any

import torch
from torch import Tensor

from .base import Metric, Quantity


class L1(Metric):
    """Mean over images."""

    higher_is_better = False
    quantities = {"l1": Quantity("L1", better="lower", decimals=5)}
    group = "Pixels"
    l1_sum: Tensor
    count: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("l1_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, reference: Tensor, reconstruction: Tensor) -> None:
        reference, reconstruction = self.pixels(reference, reconstruction)
        difference = (reference.float() - reconstruction.float()).abs_()
        # Row sums of byte differences are exact in float32; only they are added in float64.
        self.l1_sum = self.l1_sum + difference.sum(-1).double().sum() / (255.0 * difference[0].numel())
        self.count = self.count + len(reference)

    def measure(self) -> dict[str, Any]:
        return {"l1": float(self.l1_sum) / int(self.count)}

    @classmethod
    def note(cls, found: Any) -> str:
        return "of the full range"
