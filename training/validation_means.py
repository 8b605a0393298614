"""Means over the held-out images of all ranks."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..common.distributed import gather_objects
from ..common.types import IndexSegment
from ..eval.metrics.codebook import Codebook


class ValidationMeans:
    """Not `self.log(..., sync_dist=True)`, which divides by the ranks' mean number of images, rounded down."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.images = 0
        self.codebook: Codebook | None = None

    def add(
        self, values: Mapping[str, Tensor], indices: Mapping[str, Tensor], layout: Sequence[IndexSegment], *, count: int
    ) -> None:
        """values: means of a batch of `count` images."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())) + value.detach().double().cpu() * count
        if indices:
            if self.codebook is None:  # not synchronised by itself: a rank may have no image, and so no codebook
                self.codebook = Codebook(layout=layout, sync_on_compute=False)
            self.codebook.update(indices=indices)
        self.images += count

    def result(self) -> dict[str, float]:
        """All ranks call this."""
        if self.codebook is not None:
            self.codebook.to("cpu")
        first, *others = gather_objects(self)
        for other in others:
            first.images += other.images
            for name, value in other.sums.items():
                first.sums[name] = first.sums.get(name, torch.zeros(())) + value
            if first.codebook is None:
                first.codebook = other.codebook
            elif other.codebook is not None:
                first.codebook.merge_state(other.codebook)
        result = {name: float(value) / first.images for name, value in first.sums.items()}
        facts = first.codebook.result() if first.codebook is not None else {}
        return result | {name: facts[name] for name in ("usage", "perplexity") if name in facts}
