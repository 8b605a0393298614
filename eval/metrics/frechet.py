"""Frechet distance between two sets of features (Heusel et al. 2017), streamed in float64.

Up to `width` rows the features themselves are kept: the trace of the covariances' square root is then the nuclear
norm of an n x n product, which costs milliseconds instead of seconds. Beyond that mean and scatter are kept, joined
by the pairwise rule of Chan, Golub and LeVeque (1979): no shift to choose, and shards merge exactly.
"""

import torch
from torch import Tensor


class FeatureMoments:
    """Mean and scatter of feature rows."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.count = 0  # rows folded into mean and scatter
        self.mean: Tensor | None = None
        self.scatter: Tensor | None = None
        self.rows: list[Tensor] = []
        self.waiting = 0

    @property
    def total(self) -> int:
        return self.count + self.waiting

    def update(self, features: Tensor) -> None:
        self.rows.append(features.cpu() if features.device.type == "mps" else features)  # mps has no float64
        self.waiting += len(features)
        if self.waiting > self.width:
            self._fold()

    def merge(self, other: "FeatureMoments") -> None:
        if other.count:
            self._fold()
            self._join(other.count, other.mean, other.scatter)
        for rows in other.rows:
            self.update(rows)

    def kept(self) -> Tensor | None:
        """All rows in float64, or None once they were folded."""
        return None if self.count else torch.cat(self.rows).double()

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        self._fold()
        return self.mean, self.scatter / (self.count - 1)

    def to_cpu(self) -> "FeatureMoments":
        self.rows = [rows.cpu() for rows in self.rows]
        if self.mean is not None:
            self.mean, self.scatter = self.mean.cpu(), self.scatter.cpu()
        return self

    def _fold(self) -> None:
        if self.rows:
            block = torch.cat(self.rows).double()
            mean = block.mean(0)
            centred = block - mean
            self.rows, self.waiting = [], 0
            self._join(len(block), mean, centred.mT @ centred)

    def _join(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if self.mean is None:
            self.count, self.mean, self.scatter = count, mean, scatter
            return
        total = self.count + count
        step = mean - self.mean
        self.scatter = self.scatter + scatter + torch.outer(step, step) * (self.count * count / total)
        self.mean = self.mean + step * (count / total)
        self.count = total


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """|mu_a - mu_b|^2 + Tr(A) + Tr(B) - 2 Tr((A B)^1/2), covariances over N - 1."""
    assert a.total > 1 and b.total > 1, "a covariance needs two samples"
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
