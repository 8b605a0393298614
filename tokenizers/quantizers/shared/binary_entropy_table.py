"""Entropies of sign codes through the whole softmax over 2^b codes, in the published order of arithmetic.

Nothing to train with: binary_entropy.py gives the same numbers without the table, and closer to the truth. Published
code scales fp32 logits to some 1600 before the softmax, so that its rounding shows in the fourth digit of its
gradients. This form repeats that, for parity with stored gradients, and it is the only one for the floored logarithm
of vector-quantize-pytorch, which does not factorise. Tokens go in chunks that the backward pass makes again.
"""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ....common.distributed import joined_sum
from .binary_entropy import CHUNK_FLOATS, PUBLISHED_EPSILON, LogRule, OverGroups, split_groups


def table_entropies(
    z_NB: Tensor,
    *,
    temperature: float,
    group_bits: int,
    over_groups: OverGroups = "sum",
    log_rule: LogRule = "offset",
    msb_first: bool = False,
    joined: bool = True,
) -> tuple[Tensor, Tensor]:
    """As `binary_entropies`, for the assignment softmax(2 z.c / temperature).

    msb_first: how codes are numbered, which only the order of summation sees.
    """
    z_GNB = split_groups(z_NB, group_bits, over_groups)
    groups, count, _ = z_GNB.shape
    place = torch.arange(group_bits, device=z_NB.device)
    place = place.flip(0) if msb_first else place
    codes_KB = ((torch.arange(2**group_bits, device=z_NB.device)[:, None] >> place) & 1).to(z_NB.dtype) * 2 - 1

    sums: list[Tensor] | None = None
    for chunk in z_GNB.split(max(1, CHUNK_FLOATS // (groups * len(codes_KB))), dim=1):
        parts = checkpoint(_sums, chunk, codes_KB, temperature, log_rule, use_reentrant=False, preserve_rng_state=False)
        sums = parts if sums is None else [a + b for a, b in zip(sums, parts, strict=True)]
    assert sums is not None, "no tokens"
    facts = torch.cat([sums[0].flatten(), sums[1][None], z_NB.new_tensor([float(count)])])
    facts = joined_sum(facts) if joined else facts
    mean, per_token = facts[:-2] / facts[-1].detach(), facts[-2] / facts[-1].detach()
    of_mean = -(mean * _log(mean, log_rule)).sum()
    return (per_token / groups, of_mean / groups) if over_groups == "mean" else (per_token, of_mean)


def _sums(z_GNB: Tensor, codes_KB: Tensor, temperature: float, log_rule: LogRule) -> list[Tensor]:
    """Over tokens: of the assignments [G, K], and of their entropies."""
    similarity = 2 * (z_GNB @ codes_KB.T)
    # The two entropies nearly cancel in the gradient, so that even the order in which autograd adds their parts shows:
    # it goes from the operation made last to the first.
    if log_rule == "floor":  # vector-quantize-pytorch; x * 100 is not x / 0.01 in the last bit
        p = (similarity * (1 / temperature)).softmax(dim=-1)
        minus_p = -p
        per_token = (minus_p * _log(p, log_rule)).sum()
        return [p.sum(dim=1), per_token]
    logits = similarity / temperature
    p = logits.softmax(dim=-1)
    # Their offset inside the log-softmax cancels but for its rounding.
    log_p = (logits + (PUBLISHED_EPSILON if log_rule == "offset" else 0.0)).log_softmax(dim=-1)
    return [p.sum(dim=1), -(p * log_p).sum()]


def _log(p: Tensor, log_rule: LogRule) -> Tensor:
    if log_rule == "offset":
        return (p + PUBLISHED_EPSILON).log()
    return p.clamp(min=PUBLISHED_EPSILON if log_rule == "floor" else torch.finfo(p.dtype).tiny).log()
