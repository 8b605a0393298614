"""Softmax over a codebook that never holds the [tokens, codes] table: entropies, and gradients through an index.

Tokens are taken in chunks, and the backward pass computes each chunk's scores again. Gradients are written by hand,
because autograd would keep every chunk. The full forms are in the tests.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ....common.distributed import process_count, sum_over_processes

PUBLISHED_OFFSET = 1e-5  # inside the logarithm of the mean (MAGVIT-2's code and its descendants); it shows at T = 0.01


def chunks(z_ND: Tensor, codes: int) -> list[Tensor]:
    """Rows of z whose scores fit a core's cache, or a quarter GiB of a GPU."""
    if z_ND.is_cuda:
        rows = max(16, 2**25 // codes)
    elif z_ND.shape[1] <= 32:
        rows = max(16, 2**18 // codes)
    else:  # the gradient of the codebook is read and written once a chunk: wide codes want fewer chunks
        rows = max(64, 2**21 // codes)
    return list(z_ND.split(rows))


def scores(z_RD: Tensor, weight_KD: Tensor, bias_K: Tensor | None, alpha: float = 1.0) -> Tensor:
    """alpha * z.w + bias"""
    if bias_K is None:
        return torch.addmm(z_RD.new_zeros(()), z_RD, weight_KD.T, beta=0, alpha=alpha)
    return torch.addmm(bias_K, z_RD, weight_KD.T, alpha=alpha)


def softmax_beside_log(scores_RK: Tensor) -> Tensor:
    """The softmax; its logarithm takes the place of the scores. One exp, and exact where scores are in the hundreds."""
    scores_RK -= scores_RK.amax(dim=1, keepdim=True)
    p = scores_RK.exp()
    total = p.sum(dim=1, keepdim=True)
    scores_RK -= total.log()
    return p.div_(total)


class _Entropies(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z_ND: Tensor,
        weight_KD: Tensor,
        bias_K: Tensor | None,
        alpha: float,
        temperature: float,
        processes: int,
    ) -> tuple[Tensor, Tensor]:
        per_token = z_ND.new_zeros(())
        mean_K = z_ND.new_zeros(len(weight_KD))
        for z_RD in chunks(z_ND, len(weight_KD)):
            # Divided last, as published: at T = 0.01 another order of rounding shows in the gradient's fourth digit.
            log_p = scores(z_RD, weight_KD, bias_K, alpha).div_(temperature)
            p = softmax_beside_log(log_p)
            mean_K += p.sum(dim=0)
            per_token -= p.mul_(log_p).sum()
        # Over the tokens of all processes, which may hold different numbers of them: a rank's own few tokens would cap
        # H(mean) at log(tokens). Each rank's gradient is that of its own share, and DDP's averaging makes them the
        # joined batch's.
        count: Tensor | int = len(z_ND)
        if processes > 1:
            facts = sum_over_processes(torch.cat([mean_K, per_token[None], z_ND.new_tensor([float(len(z_ND))])]))
            mean_K, per_token, count = facts[:-2], facts[-2], facts[-1]
        per_token, mean_K = per_token / count, mean_K / count
        ctx.save_for_backward(z_ND, weight_KD, bias_K, mean_K)
        ctx.alpha, ctx.temperature, ctx.own_count = alpha, temperature, count / processes
        return per_token, -(mean_K * (mean_K + PUBLISHED_OFFSET).log()).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_token: Tensor, grad_mean: Tensor) -> tuple[Tensor | None, ...]:
        z_ND, weight_KD, bias_K, mean_K = ctx.saved_tensors
        shifted = mean_K + PUBLISHED_OFFSET
        through_mean_K = -grad_mean * (shifted.log() + mean_K / shifted)
        grad_z, grad_weight = torch.empty_like(z_ND), torch.zeros_like(weight_KD)
        grad_bias = None if bias_K is None else torch.zeros_like(bias_K)
        rows = chunks(z_ND, len(weight_KD))
        with torch.autocast(z_ND.device.type, enabled=False):
            for z_RD, grad_RD in zip(rows, grad_z.split(len(rows[0])), strict=True):
                slope = scores(z_RD, weight_KD, bias_K, ctx.alpha).div_(ctx.temperature)
                p = softmax_beside_log(slope)
                slope.mul_(-grad_token).add_(through_mean_K)
                slope -= torch.einsum("rk,rk->r", p, slope)[:, None]  # softmax: dl = p (t - <p, t>)
                slope.mul_(p).div_(ctx.own_count * ctx.temperature)
                torch.addmm(grad_RD, slope, weight_KD, beta=0, alpha=ctx.alpha, out=grad_RD)
                grad_weight.addmm_(slope.T, z_RD, alpha=ctx.alpha)
                if grad_bias is not None:
                    grad_bias += slope.sum(dim=0)
        return grad_z, grad_weight, grad_bias, None, None, None


def distance_entropies(
    z_ND: Tensor, codebook_KD: Tensor, temperature: float, *, joined: bool = True
) -> tuple[Tensor, Tensor]:
    """(mean entropy of a token, entropy of the mean) of softmax(-|z - e|^2 / temperature), in nats.

    |z|^2 is the same for all codes and cancels. joined: over the tokens of all processes.
    """
    bias_K = -codebook_KD.square().sum(dim=1)
    return _Entropies.apply(z_ND, codebook_KD, bias_K, 2.0, temperature, process_count() if joined else 1)


def dot_entropies(
    z_ND: Tensor, codebook_KD: Tensor, temperature: float, bias_K: Tensor | None = None, *, joined: bool = True
) -> tuple[Tensor, Tensor]:
    """The same for softmax((z . e + bias) / temperature)."""
    return _Entropies.apply(z_ND, codebook_KD, bias_K, 1.0, temperature, process_count() if joined else 1)


class _ChooseCode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z_ND: Tensor,
        keys_KD: Tensor,
        bias_K: Tensor | None,
        values_KV: Tensor,
        temperature: float,
        noise_seed: int | None,
    ) -> tuple[Tensor, Tensor]:
        noise = _Noise(noise_seed, z_ND.device)
        indices_N = torch.cat(
            [noise(scores(z_RD, keys_KD, bias_K)).max(dim=1).indices for z_RD in chunks(z_ND, len(keys_KD))]
        )
        ctx.save_for_backward(z_ND, keys_KD, bias_K, values_KV, indices_N)
        ctx.temperature, ctx.noise_seed = temperature, noise_seed
        ctx.mark_non_differentiable(indices_N)
        return values_KV[indices_N], indices_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NV: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        z_ND, keys_KD, bias_K, values_KV, indices_N = ctx.saved_tensors
        noise = _Noise(ctx.noise_seed, z_ND.device)
        grad_z, grad_keys = torch.empty_like(z_ND), torch.zeros_like(keys_KD)
        grad_bias = None if bias_K is None else torch.zeros_like(bias_K)
        rows = chunks(z_ND, len(keys_KD))
        size = len(rows[0])
        with torch.autocast(z_ND.device.type, enabled=False):
            for z_RD, grad_RD, grad_RV in zip(rows, grad_z.split(size), grad_NV.split(size), strict=True):
                p = noise(scores(z_RD, keys_KD, bias_K)).div_(ctx.temperature)
                p.sub_(p.amax(dim=1, keepdim=True)).exp_()
                p /= p.sum(dim=1, keepdim=True)
                slope = grad_RV @ values_KV.T  # gradient of each entry of the one-hot choice
                slope -= torch.einsum("rk,rk->r", p, slope)[:, None]
                slope.mul_(p).div_(ctx.temperature)
                torch.mm(slope, keys_KD, out=grad_RD)
                grad_keys.addmm_(slope.T, z_RD)
                if grad_bias is not None:
                    grad_bias += slope.sum(dim=0)
        grad_values = torch.zeros_like(values_KV).index_add_(0, indices_N, grad_NV)
        return grad_z, grad_keys, grad_bias, grad_values, None, None


class _Noise:
    """Gumbel noise that the backward pass can draw again, chunk by chunk."""

    def __init__(self, seed: int | None, device: torch.device) -> None:
        self.generator = None if seed is None else torch.Generator(device).manual_seed(seed)

    def __call__(self, scores_RK: Tensor) -> Tensor:
        if self.generator is None:
            return scores_RK
        noise = torch.empty_like(scores_RK).exponential_(generator=self.generator)
        return scores_RK.sub_(noise.clamp_(min=1e-30).log_())


def choose_code(
    z_ND: Tensor,
    keys_KD: Tensor,
    values_KV: Tensor,
    *,
    bias_K: Tensor | None = None,
    temperature: float = 1.0,
    noise_seed: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(values of the highest scores z . key + bias, their indices), straight through the softmax.

    In value the one-hot choice h times the values; its gradient is that of (h - sg(p) + p) @ values with
    p = softmax(scores / temperature): every code and z learn through the index (IBQ, arXiv 2412.02692, eq. 5; with
    Gumbel noise drawn from `noise_seed`: arXiv 1611.01144, straight-through).
    """
    return _ChooseCode.apply(z_ND, keys_KD, bias_K, values_KV, temperature, noise_seed)
