"""Entropies of sign codes, exact, without a table of tokens x codes.

A token's soft assignment to the 2^b codes of b signs is softmax(2 z.c s / T), and it factorises over the bits: bit i is
+1 with probability sigmoid(4 z_i s / T) (s: size of a code's entries). Two things follow.

- The entropy of a token's assignment is the sum of the entropies of its bits: exact, b numbers per token.
- The mean assignment over N tokens does not factorise, but each token's does over any two halves of its bits, so
  mean p = P_A^T P_B / N with P_A, P_B [N, 2^(b/2)]. For 2^18 codes that is a product of two [N, 512] matrices, where
  the full form (LFQ, arXiv 2310.05737, and vector-quantize-pytorch) holds several [N, 262144] ones.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ....common.distributed import joined_sum

MAX_JOINT_BITS = 18  # one joint distribution; above, the entropy goes by groups of bits
KEPT_FLOATS = 2**22  # half tables above this many floats are made again in the backward pass, chunk by chunk
CHUNK_FLOATS = 2**20
PUBLISHED_EPSILON = 1e-5

OverGroups = Literal["sum", "mean", "pooled"]
LogRule = Literal["exact", "offset", "floor"]


def check_group_bits(*, bits: int, group_bits: int, name: str = "entropy_group_bits") -> int:
    """`group_bits`, if the bits can be split so and a group is small enough for its joint distribution."""
    if group_bits < 1 or bits % group_bits:
        raise ValueError(f"{name}={group_bits}: {bits} bits cannot be split into groups of that many")
    if group_bits > MAX_JOINT_BITS:
        fitting = widest_group(bits)
        raise ValueError(
            f"{name}={group_bits}: the joint distribution of 2^{group_bits} codes is too large; at most "
            f"{MAX_JOINT_BITS} bits per group, so for {bits} bits for example {name}={fitting}"
        )
    return group_bits


def check_entropy_weights(sample_weight: float, batch_weight: float) -> None:
    """Below 0 they would teach doubt about each token, and one code for all."""
    for name, value in (("sample_weight", sample_weight), ("batch_weight", batch_weight)):
        if value < 0:
            raise ValueError(f"{name}={value}: 0 or more")


def widest_group(bits: int) -> int:
    """Bits of the largest equal groups that still have a joint distribution."""
    return max(g for g in range(1, MAX_JOINT_BITS + 1) if bits % g == 0)


def split_groups(x_NB: Tensor, group_bits: int, over_groups: OverGroups) -> Tensor:
    """[N, B] to [groups, N, group_bits]; pooled groups count as tokens of one group."""
    grouped = x_NB.unflatten(1, (-1, group_bits))
    return grouped.reshape(1, -1, group_bits) if over_groups == "pooled" else grouped.transpose(0, 1)


def binary_entropies(
    logits_NB: Tensor,
    *,
    group_bits: int,
    over_groups: OverGroups = "sum",
    log_rule: LogRule = "exact",
    joined: bool = True,
) -> tuple[Tensor, Tensor]:
    """Mean entropy of a token's assignment, and entropy of the mean assignment.

    logits_NB: log-odds that a bit is +1, 4 z s / T.
    group_bits: bits of one joint distribution. All bits: LFQ. Fewer: entropies of independent groups.
    over_groups: "sum" over groups (BSQ, arXiv 2406.07548: an upper bound of the joint entropy; group_bits=1 is its
        per-bit form), "mean" over groups (vector-quantize-pytorch), or "pooled": one distribution for the tokens of all
        groups together (WeTok).
    log_rule: "offset" writes log(p + 1e-5) for the mean, as SEED-Voken and WeTok do (inside their per-token log-softmax
        the offset cancels). At 2^18 codes that is no longer the entropy.
    joined: over the tokens of all processes.
    """
    assert log_rule != "floor", "that rule does not factorise: table_entropies"
    logits_GNB = split_groups(logits_NB, group_bits, over_groups)
    groups, count, _ = logits_GNB.shape
    # One exchange for all: sums rather than means, as processes may hold different numbers of tokens.
    table_GK = summed_code_probability(logits_GNB)
    facts = [table_GK.flatten(), _bit_entropy(logits_NB).sum()[None], table_GK.new_full((1,), count)]
    sums = joined_sum(torch.cat(facts)) if joined else torch.cat(facts)
    count_all = sums[-1].detach().clamp(min=1)  # no tokens at all: 0, not NaN
    per_token = sums[-2] / count_all  # pooled: a "token" is one group of one token
    mean = sums[:-2] / count_all
    if log_rule == "offset":
        logs = (mean + PUBLISHED_EPSILON).log()
    else:  # p log p goes to 0: the floor only keeps 0 * log 0 and its gradient finite
        logs = mean.clamp(min=torch.finfo(mean.dtype).tiny).log()
    of_mean = -(mean * logs).sum()
    return (per_token / groups, of_mean / groups) if over_groups == "mean" else (per_token, of_mean)


def summed_code_probability(logits_GNB: Tensor) -> Tensor:
    """Sum over tokens of the probability of each code, [G, 2^b]; bit 0 is the fastest-running one of the code."""
    groups, tokens, bits = logits_GNB.shape
    widest = 2 ** (bits - bits // 2)
    if groups * tokens * widest <= KEPT_FLOATS:
        return _code_probability_sum(logits_GNB)
    total: Tensor | None = None
    for chunk in logits_GNB.split(max(16, CHUNK_FLOATS // (groups * widest)), dim=1):
        # Only the logits are kept; the half tables of a chunk live while its gradient is made.
        part = checkpoint(_code_probability_sum, chunk, use_reentrant=False, preserve_rng_state=False)
        total = part if total is None else total + part
    assert total is not None, "no tokens"
    return total


def _code_probability_sum(logits_GNB: Tensor) -> Tensor:
    low = logits_GNB.shape[-1] // 2
    low_table, high_table = _half_table(logits_GNB[..., :low]), _half_table(logits_GNB[..., low:])
    return (high_table.transpose(1, 2) @ low_table).flatten(1)


def _half_table(logits_GNB: Tensor) -> Tensor:
    """[G, N, 2^b] probabilities of the codes of these bits: exp of the sum of log p(bit).

    As one product with the codes' bits, each next to its opposite: only the terms of a code's own bits enter its sum,
    and those are near 0 where the code matters, so that nothing cancels.
    """
    bits = logits_GNB.shape[-1]
    place = torch.arange(bits, device=logits_GNB.device)
    set_BK = ((torch.arange(2**bits, device=logits_GNB.device) >> place[:, None]) & 1).to(logits_GNB.dtype)
    log_p = torch.cat([F.logsigmoid(logits_GNB), F.logsigmoid(-logits_GNB)], dim=-1)
    return (log_p @ torch.cat([set_BK, 1 - set_BK])).exp()


def _bit_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of a bit whose log-odds are given, without 1 - p."""
    size = logits.abs()
    return F.softplus(-size) + size * (-size).sigmoid()
