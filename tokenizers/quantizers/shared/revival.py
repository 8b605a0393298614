"""Revival of unused codes."""

import torch
from torch import Tensor, nn

from ....common.distributed import all_finite, from_first_process, gather_equal_rows, sum_over_processes
from .limits import check_below_one
from .nearest import nearest_code


class Revival(nn.Module):
    """Running share of tokens that each code receives, and fresh vectors for those that receive too few.

    below: share of the even spread under which a code is dead; 0 is off, and then nothing is counted unless `counts`.
    """

    def __init__(self, *, codebook_size: int, below: float, decay: float = 0.9, counts: bool = False) -> None:
        super().__init__()
        check_below_one(revive_below=below, usage_decay=decay)
        self.below, self.decay, self.counts = below, decay, counts or below > 0
        # 1 is the even spread; only training needs it.
        self.usage = nn.Buffer(torch.ones(codebook_size), persistent=self.counts)

    @torch.no_grad()
    def count(self, indices_N: Tensor, finite: Tensor) -> None:
        """finite: what `all_finite` says of the vectors; nothing is counted where it is 0."""
        size = len(self.usage)
        counts = tokens_by_code(indices_N, size)
        self.usage.lerp_(counts * size / counts.sum().clamp(min=1), (1 - self.decay) * finite)

    @torch.no_grad()
    def replacements(self, z_ND: Tensor, indices_N: Tensor, finite: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(dead codes, vectors of the batch to put them on), the same on every rank; marks them as used.

        finite: `all_finite` of the vectors, where the caller has asked already.
        """
        none = indices_N.new_empty(0), z_ND[:0]
        if self.below == 0:
            return none
        finite = all_finite(z_ND) if finite is None else finite
        self.count(indices_N, finite)
        # The one place where the host waits for a GPU: how many are dead decides how much is drawn.
        dead = ((self.usage < self.below) & (finite > 0)).nonzero()[:, 0]
        if not len(dead):
            return none
        # At most as many as there are vectors, or copies of one vector would share its tokens.
        z_ND = gather_equal_rows(z_ND)
        vectors = len(z_ND)
        dead = from_first_process(dead[torch.randperm(len(dead), device=dead.device)][:vectors])
        drawn = from_first_process(torch.randperm(vectors, device=z_ND.device)[: len(dead)])
        self.usage[dead] = 1.0
        return dead, z_ND[drawn]


def tokens_by_code(indices_N: Tensor, size: int) -> Tensor:
    """[size] tokens of each code, over all processes; torch.bincount would make the host wait for a GPU."""
    ones = torch.ones(len(indices_N), device=indices_N.device)
    return sum_over_processes(ones.new_zeros(size).scatter_add_(0, indices_N, ones))


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
