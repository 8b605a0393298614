"""Vector quantization whose codebook follows running means of its vectors (VQ-VAE-2, arXiv 1906.00446).

Ours rather than vector-quantize-pytorch's, which sums through one-hot tables: 2048 tokens x 16384 codes take it
0.5-0.8 s and half a GiB (docs/log.md). The formulas are the same, and the tests hold them against it.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import StreamQuantized
from .codebook import CodebookQuantizer
from .finite import finite_on_all_processes
from .nearest import nearest_code
from .processes import from_first_process, sum_over_processes
from .revival import Revival, gather_equal_rows

SMOOTHING = 1e-5  # Laplace smoothing of the counts, as in VQ-VAE-2
KMEANS_ROUNDS = 10


class EmaVQ(CodebookQuantizer):
    """Codes are running means of the vectors that chose them; only the raw loss `commit` is left.

    unit_length: cosine similarity; codes are renormalised after every update.
    decay: of the running counts and sums.
    revive_below: codes chosen fewer times than this share of an even spread (running mean) are put on random vectors
        of the batch; 0 is off.
    kmeans_init: the first batch's clusters instead of random normal codes.
    """

    loss_names: ClassVar[tuple[str, ...]] = ("commit",)

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
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: from 0 to below 1; 0.99 is usual")
        self.decay = decay
        self.revival = Revival(codebook_size=codebook_size, below=revive_below, decay=usage_decay)
        codes = torch.randn(codebook_size, self.code_dim)
        self.register_buffer("codebook", F.normalize(codes, dim=-1) if unit_length else codes)
        self.register_buffer("counts", torch.ones(codebook_size))
        self.register_buffer("sums", self.codebook.clone())
        self.register_buffer("started", torch.tensor(not kmeans_init))

    def effective_codebook(self) -> Tensor:
        # A copy in training: `learn` writes over the codes that the backward pass will read.
        return self.codebook.clone() if self.training else self.codebook

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        starting = self.training and torch.is_grad_enabled() and not self.started
        if starting and finite_on_all_processes(z_BND.detach()):
            self._start(self._comparable(z_BND.detach().flatten(0, 1)))
        return super().quantize(z_BND)

    @torch.no_grad()
    def learn(self, z_ND: Tensor, indices_N: Tensor) -> None:
        if not finite_on_all_processes(z_ND):
            return
        z_ND = self._comparable(z_ND)
        counts, sums = sums_by_code(z_ND, indices_N, self.codebook_size)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        total = self.counts.sum()
        smoothed_K = (self.counts + SMOOTHING) / (total + self.codebook_size * SMOOTHING) * total
        self.codebook.copy_(self._comparable(self.sums / smoothed_K[:, None]))
        dead, vectors = self.revival.replacements(z_ND, indices_N)
        # As if each had received its even share: a few tokens must not throw it far.
        share = total / self.codebook_size
        self.codebook[dead], self.counts[dead], self.sums[dead] = vectors, share, vectors * share

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
    counts = torch.bincount(indices_N, minlength=size).to(z_ND.dtype)
    sums = z_ND.new_zeros(size, z_ND.shape[1]).index_add_(0, indices_N, z_ND)
    return sum_over_processes(counts), sum_over_processes(sums)
