"""Revival of unused codes. Nothing here asks a GPU for a number: which codes are dead stays a mask on the device."""

import torch
from torch import Tensor, nn

from ....common.distributed import all_finite, from_first_process, process_count, rank, sum_over_processes
from .limits import check_below_one
from .nearest import nearest_code


class Revival(nn.Module):
    """Running share of tokens that each code receives, and fresh vectors for those that receive too few.

    below: share of the even spread under which a code is dead; 0 is off, and then nothing is counted unless `counts`.
    start: the share that a code is said to have received before the first update; 1 is the even spread.
    """

    def __init__(
        self, *, codebook_size: int, below: float, decay: float = 0.9, counts: bool = False, start: float = 1.0
    ) -> None:
        super().__init__()
        check_below_one(revive_below=below, usage_decay=decay)
        self.below, self.decay, self.counts = below, decay, counts or below > 0
        self.usage = nn.Buffer(torch.full((codebook_size,), float(start)), persistent=self.counts)  # training needs it

    @torch.no_grad()
    def count(self, indices_N: Tensor, finite: Tensor) -> None:
        """finite: what `all_finite` says of the vectors; nothing is counted where it is 0."""
        size = len(self.usage)
        counts = tokens_by_code(indices_N, size)
        self.usage.lerp_(counts * size / counts.sum().clamp(min=1), (1 - self.decay) * finite)

    @torch.no_grad()
    def revived(
        self, codes_KD: Tensor, z_ND: Tensor, indices_N: Tensor, finite: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(which codes were dead [K], the codes with those put on vectors of the batch); marks them as used.

        finite: `all_finite` of the vectors, where the caller has asked already.
        """
        finite = all_finite(z_ND) if finite is None else finite
        self.count(indices_N, finite)
        dead_K, vectors_KD = vectors_for((self.usage < self.below) & (finite > 0), z_ND)
        self.usage.masked_fill_(dead_K, 1.0)
        return dead_K, torch.where(dead_K[:, None], vectors_KD.to(codes_KD.dtype), codes_KD)


def tokens_by_code(indices_N: Tensor, size: int) -> Tensor:
    """[size] tokens of each code, over all processes; torch.bincount would make the host wait for a GPU."""
    ones = torch.ones(len(indices_N), device=indices_N.device)
    return sum_over_processes(ones.new_zeros(size).scatter_add_(0, indices_N, ones))


@torch.no_grad()
def vectors_for(dead_K: Tensor, z_ND: Tensor, *, repeat: bool = False) -> tuple[Tensor, Tensor]:
    """(dead codes that get a vector [K], [K, D]): a random one of the batches of all processes, none twice.

    Where there are fewer vectors than dead codes, as many random codes as there are vectors get one: copies would share
    its tokens. repeat: all get one, and the vectors a little noise, so that no two are the same (RQ-VAE). The first
    process draws, and each gives what it holds, so K x D numbers travel and not the batch.
    """
    size, own = len(dead_K), len(z_ND)
    drawn = torch.randperm(own * process_count(), device=z_ND.device)
    order_K, many = torch.randperm(size, device=z_ND.device), len(drawn)
    if many < size and repeat and many:
        drawn = drawn.repeat(-(-size // many))
    elif many < size:
        drawn = torch.cat([drawn, drawn.new_full((size - many,), -1)])
    order_K, drawn_K, first_own = from_first_process(
        torch.cat([order_K, drawn[:size], drawn.new_full((1,), own)])
    ).split([size, size, 1])
    # As if every process held as many as the first; where one has fewer, it gives some twice.
    whose_K, row_K = drawn_K // first_own.clamp(min=1), drawn_K % first_own.clamp(min=1)
    mine_K1 = ((whose_K == rank()) & (drawn_K >= 0))[:, None]
    rows_KD = z_ND[row_K % own] if own else z_ND.new_zeros(size, z_ND.shape[1])
    given_KD = torch.where(mine_K1 & (own > 0), rows_KD, 0)
    if repeat and many < size and rank() == 0:
        given_KD = given_KD + torch.rand_like(given_KD) * 0.01 * z_ND.shape[1] ** -0.5
    given = sum_over_processes(torch.cat([given_KD, (mine_K1 & (own > 0)).to(z_ND.dtype)], dim=1))
    # The i-th dead code, in the order drawn, takes the i-th vector.
    place_K = torch.empty_like(order_K).scatter_(0, order_K, dead_K[order_K].cumsum(0) - 1).clamp(min=0)
    return dead_K & (given[:, -1] > 0)[place_K], given[:, :-1][place_K]


@torch.no_grad()
def clustering_reset(codebook_KD: Tensor, z_ND: Tensor, usage_K: Tensor, decay: float) -> Tensor:
    """Every code moved towards the vector nearest to it, the further the less it is used.

    Clustering-VQ (Zheng and Vedaldi, arXiv 2307.15139), as in bytedance/1d-tokenizer's MaskGIT-VQGAN: with p the
    running share of tokens, alpha = exp(-10 K p / (1 - decay) - 1e-3) and e <- (1 - alpha) e + alpha z_nearest.
    """
    alpha_K1 = torch.exp(-10 * usage_K / (1 - decay) - 1e-3)[:, None]  # usage is K p
    return torch.lerp(codebook_KD, nearest_vectors(codebook_KD, z_ND), alpha_K1)


def nearest_vectors(codebook_KD: Tensor, z_ND: Tensor) -> Tensor:
    """[K, D]: of all processes' vectors the one nearest to each code; a process searches among its own."""
    found_KD = torch.full_like(codebook_KD, torch.inf)
    if len(z_ND):
        found_KD = z_ND[nearest_code(codebook_KD, z_ND.contiguous())]
    if process_count() == 1:
        return found_KD
    distance_K = (found_KD - codebook_KD).square().sum(dim=1)
    least_K = sum_over_processes(distance_K.clone(), "MIN")
    whose_K = sum_over_processes(torch.where(distance_K == least_K, rank(), process_count()), "MIN")
    return sum_over_processes(torch.where((whose_K == rank())[:, None], found_KD, 0))
