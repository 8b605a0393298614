"""PCA-reweighted VQ (DINO-Tok): nearest codes along the principal components."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from ...common.distributed import all_finite, from_first_process, sum_over_processes
from .base import StreamQuantized
from .shared.codebook_start import CodebookStart
from .vq import VQ

LEAST_WEIGHT = 1e-2  # of the square root: the way back divides by it


class PCAVQ(VQ):
    """VQ of x' = W^(1/2) U^T (x - mean), and back by the inverse on the components that are kept.

    No code of the paper is public; this is its text: W are eigenvalues over the largest (weighting=eigenvalue), or
    one (weighting=none, "dominant subspace"), never their inverse: whitening would stress noise.

    components: how many are kept; null keeps all.
    fit_updates: training forwards whose moments make the basis when `fit` was not called; 0: identity until `fit`.
    """

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int = 1024,
        code_dim: int | None = None,
        components: int | None = None,
        weighting: Literal["eigenvalue", "none"] = "eigenvalue",
        fit_updates: int = 0,
        unit_length: bool = False,
        rotation_trick: bool = False,
        revive_below: float = 0.0,
        usage_decay: float = 0.9,
        init: CodebookStart | None = None,
        entropy_temperature: float | None = None,
    ) -> None:
        width = dim if code_dim is None else code_dim
        kept = width if components is None else components
        if components is not None and not 1 <= kept <= width:
            raise ValueError(f"components={components}: from 1 to the width of the vectors, {width}")
        if fit_updates < 0:
            raise ValueError(f"fit_updates={fit_updates}: 0 or more")
        super().__init__(
            dim=dim,
            codebook_size=codebook_size,
            code_dim=code_dim,
            unit_length=unit_length,
            rotation_trick=rotation_trick,
            revive_below=revive_below,
            usage_decay=usage_decay,
            init=init,
            entropy_temperature=entropy_temperature,
        )
        if kept < width:  # of what VQ has checked
            self.codebook = nn.Parameter(self.codebook.detach()[:, :kept].contiguous())
        self.components, self.weighting, self.fit_updates = kept, weighting, fit_updates
        self.mean = nn.Buffer(torch.zeros(width))
        self.basis = nn.Buffer(torch.eye(width)[:, :kept].contiguous())  # columns, by falling eigenvalue
        self.scale = nn.Buffer(torch.ones(kept))  # W^(1/2)
        # Sums of 1, x and x x^T while fitting.
        self.moments_count = nn.Buffer(torch.zeros((), dtype=torch.float64))
        self.moments_sum = nn.Buffer(torch.zeros(width, dtype=torch.float64))
        self.moments_product = nn.Buffer(torch.zeros(width, width, dtype=torch.float64))
        self.fitted = nn.Buffer(torch.zeros((), dtype=torch.int64))  # training forwards seen
        self.may_fit = fit_updates > 0  # once it is fitted, the device is not asked any more

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """From vectors [..., D] of the training set; sums over processes."""
        for x in batches:
            self._add_moments(x.reshape(-1, len(self.mean)))
        self._solve()
        self.fitted.fill_(max(1, self.fit_updates))

    def micro_batch_misfit(self) -> str | None:
        if not self.may_fit:
            return None
        return f".fit_updates={self.fit_updates}: the basis is fitted before an update's codes are chosen; 0, and `fit`"

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        if self.may_fit and self.training and torch.is_grad_enabled():
            self.may_fit = int(self.fitted) < self.fit_updates
            if self.may_fit and all_finite(z_BND.detach()):
                self._fit_along(z_BND.detach().flatten(0, 1))
        result = super().quantize((z_BND - self.mean) @ self.basis * self.scale)
        result.codes_BND = self._back(result.codes_BND)
        return result

    @torch.no_grad()
    def _fit_along(self, z_ND: Tensor) -> None:
        self._add_moments(z_ND)
        if not self.moments_count:  # no rank had a token
            return
        self.fitted.add_(1)
        seen = int(self.fitted)
        if seen & (seen - 1) == 0 or seen == self.fit_updates:  # 1, 2, 4, ... : the basis settles early
            self._solve()

    def lookup(self, indices_BNK: Tensor) -> Tensor:
        return self._back(super().lookup(indices_BNK))

    def _back(self, codes: Tensor) -> Tensor:
        return (codes / self.scale) @ self.basis.T + self.mean

    def _add_moments(self, x_ND: Tensor) -> None:
        x = x_ND.double()
        self.moments_count.add_(sum_over_processes(x.new_tensor(float(len(x)))))
        self.moments_sum.add_(sum_over_processes(x.sum(dim=0)))
        self.moments_product.add_(sum_over_processes(x.T @ x))

    def _solve(self) -> None:
        mean = self.moments_sum / self.moments_count
        values, vectors = torch.linalg.eigh(self.moments_product / self.moments_count - mean[:, None] * mean)
        values, vectors = values.flip(0)[: self.components], vectors.flip(1)[:, : self.components]
        values, vectors = (from_first_process(t.contiguous()) for t in (values, vectors))  # other GPUs, other signs
        self.mean.copy_(mean)
        self.basis.copy_(vectors)
        if self.weighting == "eigenvalue":
            self.scale.copy_((values / values[0]).clamp(min=0).sqrt().clamp(min=LEAST_WEIGHT))
