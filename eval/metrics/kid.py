"""Kernel Inception Distance (Binkowski et al., arXiv 1801.01401): the unbiased squared MMD under a cubic kernel.

The estimate and its spread are the mean and the deviation over random subsets of both sides, as torch-fidelity and
torchmetrics take them, whose kernel this is. Subsets are drawn from images sorted by a hash of their keys: the same for
every order of files and number of processes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from .base import Quantity, TooFewImages
from .features import SIDES, FeatureMetric, number_of
from .networks import Network


def kernel_distances(a: Tensor, b: Tensor, *, subsets: int, subset_size: int, seed: int) -> Tensor:
    """[N, D] and [M, D] to one squared distance for each pair of subsets, in float64."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(subsets):
        x, y = (rows[torch.randperm(len(rows), generator=generator)[:subset_size].to(rows.device)] for rows in (a, b))
        found.append(poly_mmd(x.double(), y.double()))
    return torch.stack(found)


class Kid(FeatureMetric):
    """Between references and reconstructions; unbiased, so comparable across counts."""

    higher_is_better = False
    quantities = {"kid": Quantity("KID", better="lower", decimals=6, curve_decimals=5)}
    own_fields = ("subsets", "subset_size", "seed")
    order: list[Tensor]

    def __init__(
        self,
        *,
        extractor: Network | None = None,
        subsets: int = 100,
        subset_size: int = 1000,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(extractor=extractor, **options)
        if subsets < 1:
            raise ValueError(f"subsets={subsets}: at least 1")
        if subset_size < 2:
            raise ValueError(f"subset_size={subset_size}: at least 2")
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed
        self.add_rows("order", torch.int64)

    def row_shape(self, name: str) -> tuple[int, ...]:
        return () if name == "order" else super().row_shape(name)

    def add(self, side: str, features: Tensor, logits: Tensor | None, keys: Sequence[str]) -> None:
        super().add(side, features, logits, keys)
        if side == "reference":  # both sides come in the same order
            order = [number_of(key, seed=self.seed) >> 1 for key in keys]  # 63 bits
            self.order.append(torch.tensor(order, device=self.device))

    def measure(self) -> dict[str, Any]:
        order = self.rows_of("order").argsort(stable=True)
        if len(order) < self.subset_size:
            raise TooFewImages(f"{len(order):,} images are fewer than its subset_size of {self.subset_size:,}")
        a, b = (self.rows_of(f"{side}_rows")[order] for side in SIDES)
        found = kernel_distances(a, b, subsets=self.subsets, subset_size=self.subset_size, seed=self.seed)
        entry = {
            "value": float(found.mean()),
            "std": float(found.std(correction=0)),
            "n": len(order),
            "subsets": self.subsets,
            "subset_size": self.subset_size,
        }
        return {self.key("kid"): entry | self.provenance()}

    def words(self) -> list[tuple[str, str]]:
        return [("KID", f"cubic kernel, unbiased, {self.subsets} subsets of {self.subset_size:,} by seed {self.seed}")]

    @classmethod
    def note(cls, found: Any) -> str:
        drawn = f"{found['subsets']:,} subsets of {found['subset_size']:,} of {found['n']:,} images"
        return f"± {found['std']:.6f} over {drawn}"
