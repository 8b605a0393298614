"""Post-training scalar quantization of a continuous latent (TokenBridge, arXiv 2503.16430): one index per channel."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...common.build import build
from ...common.distributed import all_finite, sum_over_processes
from .base import StreamQuantized, TokenQuantizer
from .identity import ContinuousBottleneck
from .shared.limits import check_below_one, check_positive
from .shared.straight_through import straight_through

MAX_BITS = 16


class GaussianScalar(TokenQuantizer):
    """Each channel, scaled to unit spread, becomes the nearest of 2^bits values spaced as a normal's equal parts.

    Nothing is trained: `fit` sets the scale from latents (`imtok quantize` calls it and writes the tokenizer). As
    published: x / std in [-range, range] is mapped to [-std_range, std_range], where the values are the means of a
    truncated normal between its quantiles j / 2^bits.

    continuous: YAML node of the bottleneck it takes the place of (kl, identity), whose mean is quantized.
    per_channel: fit mean and spread of each channel; published is one spread for all and no mean (KL-16: 1 / 0.2325).
    follow: share of the old scale that a training update keeps; the scale then follows the latents' running spread,
        for training from scratch. 0 is off.
    """

    builds_own_parts: ClassVar[bool] = True
    joined_batch_equal = True

    def __init__(
        self,
        *,
        dim: int,
        bits: int = 6,
        range: float = 5.0,
        std_range: float = 3.0,
        code_dim: int | None = None,
        continuous: Mapping[str, Any] | None = None,
        per_channel: bool = False,
        follow: float = 0.0,
        trusted: bool = True,
    ) -> None:
        if not 1 <= bits <= MAX_BITS:
            raise ValueError(f"bits={bits}: of one channel, from 1 to {MAX_BITS}")
        check_positive(range=range, std_range=std_range)
        check_below_one(follow=follow)
        if continuous is not None and code_dim is not None:
            raise ValueError(f"code_dim={code_dim}: `continuous` says how wide the latent is; leave it out")
        bottleneck = None
        if continuous is not None:
            bottleneck = build(continuous, key="tokenizer.quantizer.continuous", trusted=trusted, dim=dim)
            if not isinstance(bottleneck, ContinuousBottleneck):
                raise ValueError(f"continuous={continuous['_target_']}: not a continuous bottleneck (kl, identity)")
        super().__init__(dim=dim, code_dim=code_dim)
        self.continuous = bottleneck
        if bottleneck is not None:  # which projects in and out itself
            self.code_dim, self.out_dim = bottleneck.code_dim, bottleneck.out_dim
        self.vocabulary = (2**bits,) * self.code_dim
        self.range, self.std_range = range, std_range
        self.per_channel, self.follow = per_channel, follow
        values = normal_values(bits, std_range)
        self.values = nn.Buffer(values, persistent=False)
        self.borders = nn.Buffer((values[1:] + values[:-1]) / 2, persistent=False)
        self.mean = nn.Buffer(torch.zeros(self.code_dim))
        self.spread = nn.Buffer(torch.ones(self.code_dim))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """From the encoder's vectors [B, N, dim]: the spread (and the mean) of the latent that will be quantized."""
        count, total, squares = 0, torch.zeros(self.code_dim).double(), torch.zeros(self.code_dim).double()
        for x in batches:
            z = self.latent(x.float()).reshape(-1, self.code_dim).double().cpu()
            count, total, squares = count + len(z), total + z.sum(dim=0), squares + z.square().sum(dim=0)
        if count < 2:
            raise ValueError("fit: fewer than 2 latent vectors; give more images")
        self._set(total / count, squares / count)

    def latent(self, x_BND: Tensor) -> Tensor:
        return self.project_in(x_BND) if self.continuous is None else self.continuous.mean(x_BND)

    def _set(self, mean: Tensor, mean_square: Tensor, keep: Tensor | float = 0.0) -> None:
        if self.per_channel:
            variance = mean_square - mean.square()
            self.mean.lerp_(mean.to(self.mean), 1 - keep)
        else:
            variance = (mean_square.mean() - mean.mean().square()).expand(self.code_dim)
        self.spread.lerp_(variance.clamp(min=1e-12).sqrt().to(self.spread), 1 - keep)

    @torch.no_grad()
    def _follow(self, z_ND: Tensor) -> None:
        finite = all_finite(z_ND)
        z_ND = torch.where(finite > 0, z_ND, 0)
        count = z_ND.new_full((1, self.code_dim), float(len(z_ND)))
        count, total, squares = sum_over_processes(
            torch.cat([count, z_ND.sum(dim=0, keepdim=True), z_ND.square().sum(dim=0, keepdim=True)])
        )
        count = count.clamp(min=1)
        self._set(total / count, squares / count, 1 - (1 - self.follow) * finite)

    def to_indices(self, z: Tensor) -> Tensor:
        u = (z - self.mean) / self.spread
        u = (u + self.range) / (2 * self.range) * (2 * self.std_range) - self.std_range
        return torch.bucketize(u.contiguous(), self.borders)  # the border between two values: nearest, without a table

    def to_values(self, indices: Tensor) -> Tensor:
        u = (self.values[indices] + self.std_range) / (2 * self.std_range) * (2 * self.range) - self.range
        return u * self.spread + self.mean

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        z = z_BND if self.continuous is None else self.continuous.mean(z_BND)
        indices = self.to_indices(z.detach())
        codes = self.to_values(indices)
        if self.training:
            if self.follow and torch.is_grad_enabled():
                self.once_an_update(self._follow, z.detach().flatten(0, 1))
            codes = straight_through(z, codes)
        return StreamQuantized(codes if self.continuous is None else self.continuous.project_out(codes), indices)

    def lookup(self, indices_BNK: Tensor) -> Tensor:
        codes = self.to_values(indices_BNK)
        return codes if self.continuous is None else self.continuous.project_out(codes)


def normal_values(bits: int, std_range: float) -> Tensor:
    """[2^bits] rising: means of the unit normal between its quantiles j / 2^bits, edges clamped to +-std_range."""
    edges = normal_borders(bits, std_range)
    density = torch.exp(-edges.square() / 2) / (2 * torch.pi) ** 0.5
    share = torch.special.ndtr(edges).diff()
    return (-density.diff() / share.clamp(min=1e-10)).float()


def normal_borders(bits: int, std_range: float) -> Tensor:
    quantiles = torch.arange(2**bits + 1, dtype=torch.float64) / 2**bits
    return torch.special.ndtri(quantiles).clamp(-std_range, std_range)
