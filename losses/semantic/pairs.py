"""InfoNCE over pairs of vectors, on each process its own rows against the columns of all: no table of all pairs.

What open_clip calls local_loss with gather_with_grad. Averaged over processes, as data-parallel training averages
gradients, loss and gradients are those of one process with the joined batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...common.distributed import process_count, rank, rows_of_all

FAR = -1e30  # finite, so that rows without any column have finite gradients


def symmetric_infonce(
    a_BD: Tensor, b_BD: Tensor, keep_B: Tensor | None = None, *, scale: float | Tensor, join: bool
) -> Tensor:
    """Cross-entropy of telling each sample's partner from all others of all processes, mean over both sides.

    keep_B: the samples that take part, None for all; 0 where no process has any. join: False in validation, where the
    processes' shares differ in number.
    """
    a_CD, b_CD = (rows_of_all(x) if join else x for x in (a_BD, b_BD))
    keep_C = rows_of_all(keep_B) if join and keep_B is not None else keep_B
    first, processes = (rank() * len(a_BD), process_count()) if join else (0, 1)
    losses_B = (_one_way(a_BD, b_CD, keep_C, scale, first) + _one_way(b_BD, a_CD, keep_C, scale, first)) / 2
    if keep_B is None or keep_C is None:
        return losses_B.mean()
    return torch.where(keep_B, losses_B, 0.0).sum() * processes / keep_C.sum().clamp(min=1)


def _one_way(rows_BD: Tensor, columns_CD: Tensor, keep_C: Tensor | None, scale: float | Tensor, first: int) -> Tensor:
    """[B]; row i belongs to column `first` + i."""
    logits_BC = scale * rows_BD @ columns_CD.T
    if keep_C is not None:
        logits_BC = logits_BC.masked_fill(~keep_C, FAR)
    partner_B = torch.arange(first, first + len(rows_BD), device=rows_BD.device)
    return F.cross_entropy(logits_BC, partner_B, reduction="none")
