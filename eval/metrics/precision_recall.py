"""Improved precision and recall (Kynkäänniemi et al., arXiv 1904.06991): which images lie on the other set's manifold.

A set's manifold is the union of balls around its features, each as wide as the distance to its k-th nearest neighbour.
Precision: the share of reconstructions within the originals' manifold; recall: the other way round.
"""

from typing import Any

import torch
from torch import Tensor

from .base import Quantity, TooFewImages
from .features import SIDES, FeatureMetric
from .networks import Network

CHUNK = 1024  # rows whose distances to all others are held at a time


def radii(rows: Tensor, k: int) -> Tensor:
    """Distance of each row to its k-th nearest other row."""
    return torch.cat([torch.cdist(part, rows).kthvalue(k + 1).values for part in rows.split(CHUNK)])


def share_within(rows: Tensor, centres: Tensor, radius: Tensor) -> float:
    """Share of rows in at least one ball."""
    inside = [(torch.cdist(part, centres) <= radius).any(1) for part in rows.split(CHUNK)]
    return float(torch.cat(inside).double().mean())


class PrecisionRecall(FeatureMetric):
    """k: neighbours that decide how wide a ball is."""

    higher_is_better = True
    quantities = {name: Quantity(name.capitalize(), better="higher") for name in ("precision", "recall")}
    own_fields = ("k",)

    def __init__(self, *, extractor: Network | None = None, k: int = 3, **options: Any) -> None:
        super().__init__(extractor=extractor, **options)
        if k < 1:
            raise ValueError(f"k={k}: at least 1")
        self.k = k

    def measure(self) -> dict[str, Any]:
        reference, reconstruction = (self.rows_of(f"{side}_rows").double() for side in SIDES)
        count = len(reference)
        if count <= self.k:
            raise TooFewImages(f"{count:,} images have no {self.k} neighbours each")
        facts = {"n": count, "k": self.k} | self.provenance()
        precision = share_within(reconstruction, reference, radii(reference, self.k))
        recall = share_within(reference, reconstruction, radii(reconstruction, self.k))
        return {self.key("precision"): {"value": precision} | facts, self.key("recall"): {"value": recall} | facts}

    def words(self) -> list[tuple[str, str]]:
        return [
            ("Precision and recall", f"balls as wide as the distance to neighbour {self.k}, all images on both sides")
        ]

    @classmethod
    def note(cls, found: Any) -> str:
        return f"manifolds of {found['n']:,} images, {found['k']} neighbours"
