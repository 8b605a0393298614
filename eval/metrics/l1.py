"""Mean absolute difference, in units of the full range (0 to 1)."""

from typing import Any

from torch import Tensor

from .base import MeanOverImages, Quantity


class L1(MeanOverImages):
    """Mean over images."""

    higher_is_better = False
    quantities = {"l1": Quantity("L1", better="lower", decimals=5)}
    group = "Pixels"

    def per_image(self, reference: Tensor, reconstruction: Tensor) -> Tensor:
        difference = (reference.float() - reconstruction.float()).abs_()
        # Row sums of byte differences are exact in float32; only they are added in float64.
        return difference.sum(-1).double().flatten(1).sum(1) / (255.0 * difference[0].numel())

    @classmethod
    def note(cls, found: Any) -> str:
        return "of the full range"
