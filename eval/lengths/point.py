"""Point of a curve: the metrics of the main pass on some images, at one length or by one codec."""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
import torchmetrics
from torch import Tensor

from ..metrics.base import TooFewImages
from ..metrics.chosen import ChosenMetrics, collection


class Totals(torchmetrics.Metric):
    """Sums over images and processes, by name; `images` counts them."""

    full_state_update = False
    sums: Tensor

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = ("images", *names)
        self.add_state("sums", torch.zeros(len(self.names), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, **sums: int) -> None:
        self.sums = self.sums + torch.tensor([sums[name] for name in self.names], device=self.device)

    def compute(self) -> dict[str, int]:
        return dict(zip(self.names, self.sums.tolist(), strict=True))


class CurvePoint:
    def __init__(self, metrics: ChosenMetrics, *names: str) -> None:
        """names: what is summed beside the metrics."""
        self.metrics = metrics.on_curve()
        self.collection = collection(self.metrics)
        self.totals = Totals(*names).to(metrics.states_on)

    def measure(self, reference: Tensor, pixels: Tensor, unrounded: Tensor, keys: Sequence[str], **sums: int) -> None:
        self.collection.update(reference, pixels, unrounded=unrounded, keys=keys)
        self.totals.update(images=len(keys), **sums)

    def count(self, name: str = "images") -> int:
        """Of all processes, each of which must ask."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
            return self.totals.compute()[name]

    def numbers(self, *, of: int) -> dict[str, float]:
        """of: images of the whole curve. A distance between sets of fewer would be comparable with nothing."""
        values: dict[str, Any] = {}
        whole = self.count() == of
        for metric in self.metrics.values():
            if whole or not metric.of_sets:
                with suppress(TooFewImages):
                    values |= metric.curve_numbers()
        return values
