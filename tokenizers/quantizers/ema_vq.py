"""Vector quantization whose codebook follows running means of its vectors (VQ-VAE-2, arXiv 1906.00446).

Ours rather than vector-quantize-pytorch's, which sums through one-hot tables: 2048 tokens x 16384 codes take it
0.5-0.8 s and half a GiB (docs/log.md). The formulas are the same, and the tests hold them against it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.distributed import all_finite, from_first_process, gather_equal_rows, sum_over_processes
from .base import StreamQuantized
from .shared.codebook import CodebookQuantizer
from .shared.codebook_start import CodebookStart, codebook_start
from .shared.limits import check_below_one, check_not_negative
from .shared.nearest import nearest_code
from .shared.revival import Revival, tokens_by_code, vectors_for

SMOOTHING = 1e-5  # Laplace smoothing of the counts, as in VQ-VAE-2
KMEANS_ROUNDS = 10


class EmaVQ(CodebookQuantizer):
    """Codes are running means of the vectors that chose them; only the raw loss `commit` is left.

    unit_length: cosine similarity; codes are renormalised after every update.
    decay: of the running counts and sums.
    revive_below: codes chosen fewer times than this share of an even spread (running mean) are put on random vectors
        of the batch; 0 is off.
    revive_below_tokens: the rule of RQ-VAE instead: codes whose running count of tokens an update falls below this
        start anew from a vector of the batch, with the mass of one token; 0 is off.
    start_counts: the running counts before the first update; from 0, RQ-VAE's rule puts all codes on vectors at once.
    init: where the codes start, see codebook_start.py; null: normal, of unit length where unit_length is set.
    kmeans_init: the first batch's clusters instead of random normal codes.
    """

    loss_names: tuple[str, ...] = ("commit",)
    joined_batch_equal = True
    learns = True

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int = 1024,
        code_dim: int | None = None,
        unit_length: bool = False,
        rotation_trick: bool = False,
        decay: float = 0.99,
        revive_below: float = 0.0,
        usage_decay: float = 0.9,
        revive_below_tokens: float = 0.0,
        start_counts: float = 1.0,
        init: CodebookStart | None = None,
        kmeans_init: bool = False,
        entropy_temperature: float | None = None,
    ) -> None:
        super().__init__(
            dim=dim,
            codebook_size=codebook_size,
            code_dim=code_dim,
            unit_length=unit_length,
            rotation_trick=rotation_trick,
            entropy_temperature=entropy_temperature,
        )
        check_below_one(decay=decay)
        check_not_negative(revive_below_tokens=revive_below_tokens, start_counts=start_counts)
        if revive_below_tokens > 0 and revive_below > 0:
            raise ValueError(f"revive_below_tokens={revive_below_tokens}: a rule of its own; set revive_below to 0")
        self.decay, self.revive_below_tokens = decay, revive_below_tokens
        self.revival = Revival(codebook_size=codebook_size, below=revive_below, decay=usage_decay)
        init = init or ("normal_unit" if unit_length else "normal")
        self.codebook = nn.Buffer(codebook_start(init, codebook_size=codebook_size, width=self.code_dim))
        self.counts = nn.Buffer(torch.full((codebook_size,), float(start_counts)))
        self.sums = nn.Buffer(self.codebook.clone())
        self.started = nn.Buffer(torch.tensor(not kmeans_init))
        self.may_start = kmeans_init  # asks the host no question later: `started` lives on the device

    def effective_codebook(self) -> Tensor:
        # A copy in training: `learn` writes over the codes that the backward pass will read.
        return self.codebook.clone() if self.training else self.codebook

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        if self.may_start and self.training and torch.is_grad_enabled():
            self.may_start = not self.started
            if self.may_start and all_finite(z_BND.detach()):
                self._start(self._comparable(z_BND.detach().flatten(0, 1)))
        return super().quantize(z_BND)

    def micro_batch_misfit(self) -> str | None:
        if not self.may_start:
            return None
        return ".kmeans_init=true: the codes start from the first update's whole batch; kmeans_init=false"

    @torch.no_grad()
    def learn(self, z_ND: Tensor, indices_N: Tensor) -> None:
        finite = all_finite(z_ND)
        rate = (1 - self.decay) * finite
        z_ND = torch.where(finite > 0, self._comparable(z_ND), 0)
        counts, sums = sums_by_code(z_ND, indices_N, self.codebook_size)
        self.counts.lerp_(counts, rate)
        self.sums.lerp_(sums, rate)
        if self.revive_below_tokens > 0:
            dead, vectors = vectors_for((self.counts < self.revive_below_tokens) & (finite > 0), z_ND, repeat=True)
            self.counts.masked_fill_(dead, 1.0)
            self.sums.copy_(torch.where(dead[:, None], vectors, self.sums))
        total = self.counts.sum()
        smoothed_K = (self.counts + SMOOTHING) / (total + self.codebook_size * SMOOTHING) * total
        means = self._comparable(self.sums / smoothed_K[:, None])
        known = (self.counts > 0) & (finite > 0)  # a code that nothing has chosen since counts of 0 stays
        self.codebook.copy_(torch.where(known[:, None], means, self.codebook))
        if self.revival.counts:
            dead, codes = self.revival.revived(self.codebook, z_ND, indices_N, finite)
            self.codebook.copy_(codes)
            # As if each had received its even share: a few tokens must not throw it far.
            share = total / self.codebook_size
            self.counts.copy_(torch.where(dead, share, self.counts))
            self.sums.copy_(torch.where(dead[:, None], codes * share, self.sums))

    def _comparable(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=-1) if self.unit_length else z

    @torch.no_grad()
    def _start(self, z_ND: Tensor) -> None:
        """k-means over the batch of all processes."""
        everyone = gather_equal_rows(z_ND)
        drawn = torch.randint(len(everyone), (self.codebook_size,), device=z_ND.device)
        if len(everyone) >= self.codebook_size:
            drawn = torch.randperm(len(everyone), device=z_ND.device)[: self.codebook_size]
        codebook = everyone[from_first_process(drawn)]
        for _ in range(KMEANS_ROUNDS):
            counts, sums = sums_by_code(z_ND, nearest_code(z_ND, codebook), self.codebook_size)
            codebook = torch.where(counts[:, None] > 0, self._comparable(sums / counts[:, None].clamp(min=1)), codebook)
        self.codebook.copy_(codebook)
        self.counts.fill_(1.0)
        self.sums.copy_(codebook)
        self.started.fill_(True)


def sums_by_code(z_ND: Tensor, indices_N: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(tokens of each code, sum of their vectors), over all processes."""
    sums = z_ND.new_zeros(size, z_ND.shape[1]).index_add_(0, indices_N, z_ND)
    return tokens_by_code(indices_N, size), sum_over_processes(sums)
