"""Per-bit entropies of several sets of tokens, of which some may not count, in one exchange between processes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ....common.distributed import joined_sum


def bit_entropies(sets: Sequence[tuple[Tensor, Tensor | None]]) -> list[tuple[Tensor, Tensor]]:
    """For each set (mean entropy of a token's bits, entropy of the mean bits), sums over bits, in nats.

    As `binary_entropies` with group_bits=1. sets: (log-odds that a bit is +1 [B, N, bits], which samples count [B] or
    None for all); over the samples of all processes, and 0 where none counts.
    """
    facts = []
    for logits_BNb, keep_B in sets:
        per_token_BN = _bit_entropy(logits_BNb).sum(dim=2)
        parts = torch.cat([logits_BNb.sigmoid(), (-logits_BNb).sigmoid(), per_token_BN[..., None]], dim=2).sum(dim=1)
        count = logits_BNb.new_full((len(logits_BNb), 1), float(logits_BNb.shape[1]))
        parts = torch.cat([parts, count], dim=1)
        facts.append(parts.sum(dim=0) if keep_B is None else torch.where(keep_B[:, None], parts, 0.0).sum(dim=0))
    found = []
    for sums in joined_sum(torch.cat(facts)).split([len(part) for part in facts]):
        count = sums[-1].detach().clamp(min=1)
        mean = sums[:-2] / count
        # p log p goes to 0: the floor only keeps 0 * log 0 and its gradient finite
        of_mean = -(mean * mean.clamp(min=torch.finfo(mean.dtype).tiny).log()).sum()
        found.append((sums[-2] / count, of_mean))
    return found


def _bit_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of a bit whose log-odds are given, without 1 - p."""
    size = logits.abs()
    return F.softplus(-size) + size * (-size).sigmoid()
