"""Frechet distance between two sets of features (Heusel et al. 2017), streamed in float64.

Up to `width` rows the features themselves are kept: the trace of the covariances' square root is then the nuclear
norm of an n x n product, which costs milliseconds instead of seconds. Beyond that mean and scatter are kept, joined
by the pairwise rule of Chan, Golub and LeVeque (1979): no shift to choose, and processes join exactly.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from .base import Measured, TooFewImages
from .features import SIDES, FeatureMetric
from .networks import Network


def moments_of(rows: Tensor) -> Tensor:
    """[N, D] to [D + 2, D] in float64: the count in every column, the mean, the scatter around it."""
    rows = rows.double()
    mean = rows.mean(0)
    centred = rows - mean
    return torch.cat([torch.full_like(mean, len(rows))[None], mean[None], centred.mT @ centred])


def joined(a: Tensor, b: Tensor) -> Tensor:
    """Moments of both sets together."""
    (count_a, mean_a), (count_b, mean_b) = a[:2], b[:2]
    total = count_a + count_b
    step = mean_b - mean_a
    scatter = a[2:] + b[2:] + torch.outer(step, step) * (count_a * count_b / total)
    return torch.cat([total[None], (mean_a + step * (count_b / total))[None], scatter])


@dataclass(frozen=True)
class FeatureSet:
    """rows: [N, D]. folded: [K, D + 2, D], moments of K further sets."""

    rows: Tensor
    folded: Tensor

    @property
    def total(self) -> int:
        return len(self.rows) + int(self.folded[:, 0, 0].sum())

    def kept(self) -> Tensor | None:
        """All rows in float64, or None where there are moments, or so many rows that moments are cheaper."""
        return self.rows.double() if not len(self.folded) and len(self.rows) <= self.rows.shape[1] else None

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        every = [*self.folded, *([moments_of(self.rows)] if len(self.rows) else [])]
        whole = reduce(joined, every)
        return whole[1], whole[2:] / (whole[0, 0] - 1)


def frechet_distance(a: FeatureSet, b: FeatureSet) -> float:
    """|mu_a - mu_b|^2 + Tr(A) + Tr(B) - 2 Tr((A B)^1/2), covariances over N - 1."""
    if min(a.total, b.total) < 2:
        raise TooFewImages(f"a covariance needs two images; there is {min(a.total, b.total)}")
    rows_a, rows_b = a.kept(), b.kept()
    if rows_a is not None and rows_b is not None:
        mean_a, mean_b = rows_a.mean(0), rows_b.mean(0)
        left = (rows_a - mean_a) / (len(rows_a) - 1) ** 0.5
        right = (rows_b - mean_b) / (len(rows_b) - 1) ** 0.5
        traces = left.square().sum() + right.square().sum()
        root = torch.linalg.svdvals(left @ right.mT).sum()
    else:
        mean_a, cov_a = a.mean_and_covariance()
        mean_b, cov_b = b.mean_and_covariance()
        traces = cov_a.trace() + cov_b.trace()
        root = _trace_of_root(cov_a, cov_b)
    return float((mean_a - mean_b).square().sum() + traces - 2 * root)


def _trace_of_root(a: Tensor, b: Tensor) -> Tensor:
    """Tr((A B)^1/2) through the symmetric F^T B F with A = F F^T: real, and no complex roots to drop."""
    factor, failed = torch.linalg.cholesky_ex(a)
    if int(failed):  # rank deficient
        values, vectors = torch.linalg.eigh(a)
        factor = vectors * values.clamp(min=0).sqrt()
    return torch.linalg.eigvalsh(factor.mT @ b @ factor).clamp(min=0).sqrt().sum()


class FrechetDistance(FeatureMetric):
    """Between references and reconstructions. They are the same images, so few of them bias it less, but still do."""

    higher_is_better = False

    def __init__(self, *, extractor: Network | None = None, **options: Any) -> None:
        super().__init__(extractor=extractor, **options)
        for side in SIDES:
            self.add_rows(f"{side}_moments", torch.float64)

    def row_shape(self, name: str) -> tuple[int, ...]:
        width = self.extractor.width
        return (width + 2, width) if name.endswith("moments") else (width,)

    def add(self, side: str, features: Tensor, logits: Tensor | None, keys: Sequence[str]) -> None:
        super().add(side, features, logits, keys)
        rows = getattr(self, f"{side}_rows")
        if sum(map(len, rows)) > self.extractor.width:
            moments = moments_of(torch.cat(rows))
            for (before,) in getattr(self, f"{side}_moments"):
                moments = joined(before, moments)
            setattr(self, f"{side}_moments", [moments[None]])
            setattr(self, f"{side}_rows", [])

    def measure(self) -> dict[str, Any]:
        a, b = (FeatureSet(self.rows_of(f"{side}_rows"), self.rows_of(f"{side}_moments")) for side in SIDES)
        value = frechet_distance(a, b)
        return {self.frechet_key(a.total): {"value": value, "n": a.total} | self.provenance()}

    def frechet_key(self, count: int) -> str:
        return f"fid[{self.extractor.label}]@{count}"

    def label_of(self, key: str, count: int, measured: Measured) -> str:
        return key

    def entries(self, measured: Measured) -> dict[str, Any]:
        return {k: v | {"label": self.label_of(k, v["n"], measured)} for k, v in self.result().items()}

    def warnings(self, entries: Mapping[str, Any]) -> list[str]:
        width = self.extractor.width
        return [
            f"{found['label']}: {found['n']:,} images for {width:,} features; below {5 * width:,} the distance is "
            "biased upwards, and comparable only at the same count"
            for found in entries.values()
            if found["n"] < 5 * width
        ]

    @classmethod
    def title_of(cls, key: str) -> str:
        return key

    @classmethod
    def note(cls, found: Any) -> str:
        return f"reference: the same {found['n']:,} images"
