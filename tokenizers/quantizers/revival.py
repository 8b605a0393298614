"""Codes that nobody chooses, put back among the vectors."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .finite import finite_on_all_processes
from .nearest import nearest_code
from .processes import from_first_process, gather_over_processes, process_count, sum_over_processes


class Revival(nn.Module):
    """Running share of tokens that each code receives, and fresh vectors for those that receive too few.

    below: share of the even spread under which a code is dead; 0 is off, and then nothing is counted unless `counts`.
    """

    def __init__(self, *, codebook_size: int, below: float, decay: float = 0.9, counts: bool = False) -> None:
        super().__init__()
        if not 0 <= below < 1:
            raise ValueError(f"revive_below={below}: a share of the even spread, from 0 (off) to below 1")
        if not 0 <= decay < 1:
            raise ValueError(f"usage_decay={decay}: from 0 to below 1")
        self.below, self.decay, self.counts = below, decay, counts or below > 0
        # 1 is the even spread; only training needs it.
        self.register_buffer("usage", torch.ones(codebook_size), persistent=self.counts)

    @torch.no_grad()
    def count(self, indices_N: Tensor) -> None:
        size = len(self.usage)
        counts = sum_over_processes(torch.bincount(indices_N, minlength=size).float())
        self.usage.lerp_(counts * size / counts.sum(), 1 - self.decay)

    @torch.no_grad()
    def replacements(self, z_ND: Tensor, indices_N: Tensor) -> tuple[Tensor, Tensor]:
        """(dead codes, vectors of the batch to put them on), the same on every rank; marks them as used."""
        nobody = indices_N.new_empty(0), z_ND[:0]
        if self.below == 0 or not finite_on_all_processes(z_ND):
            return nobody
        self.count(indices_N)
        dead = (self.usage < self.below).nonzero()[:, 0]
        if not len(dead):
            return nobody
        # At most as many as there are vectors, or copies of one vector would share its tokens.
        z_ND = gather_equal_rows(z_ND)
        vectors = len(z_ND)
        dead = from_first_process(dead[torch.randperm(len(dead), device=dead.device)][:vectors])
        drawn = from_first_process(torch.randperm(vectors, device=z_ND.device)[: len(dead)])
        self.usage[dead] = 1.0
        return dead, z_ND[drawn]


@torch.no_grad()
def clustering_reset(codebook_KD: Tensor, z_ND: Tensor, usage_K: Tensor, decay: float) -> Tensor:
    """Every code moved towards the vector nearest to it, the further the less it is used.

    Clustering-VQ (Zheng and Vedaldi, arXiv 2307.15139), as in bytedance/1d-tokenizer's MaskGIT-VQGAN: with p the
    running share of tokens, alpha = exp(-10 K p / (1 - decay) - 1e-3) and e <- (1 - alpha) e + alpha z_nearest.
    """
    alpha_K1 = torch.exp(-10 * usage_K / (1 - decay) - 1e-3)[:, None]  # usage is K p
    z_ND = gather_equal_rows(z_ND)
    closest = z_ND[nearest_code(codebook_KD, z_ND.contiguous())]
    return torch.lerp(codebook_KD, closest, alpha_K1)


def gather_equal_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks; where ranks hold unequal batches, as many of each as the smallest has."""
    if process_count() == 1:
        return rows
    fewest = torch.tensor(len(rows), device=rows.device)
    dist.all_reduce(fewest, op=dist.ReduceOp.MIN)
    return gather_over_processes(rows[: int(fewest)])
