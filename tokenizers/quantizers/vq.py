"""Vector quantization with a codebook trained by gradients (van den Oord et al., arXiv 1711.00937).

Ours rather than vector-quantize-pytorch's: its learnable codebook has one loss with one weight for both directions,
so neither beta nor the legacy order of VQGAN can be said, and it refuses unit-length codes (LlamaGen). `ema_vq.py`
uses the library.
"""

from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from .base import SingleStreamQuantizer, StreamQuantized
from .finite import finite_on_all_processes
from .nearest import nearest_code


class VQ(SingleStreamQuantizer):
    """Each vector becomes its nearest code; gradients pass straight through.

    Losses, raw: `codebook` |sg(z) - e|^2 draws codes to vectors, `commit` |z - sg(e)|^2 draws vectors to codes. The
    usual beta is loss.commit.weight. VQGAN's published models come from the swapped ("legacy") order: commit 1,
    codebook 0.25.

    unit_length: compare and hand on unit vectors (LlamaGen, arXiv 2406.06525).
    revive_below: codes chosen fewer times than this share of an even spread (running mean) are put on random vectors
        of the batch; 0 turns it off.
    entropy_temperature: adds the raw loss `entropy`, H(code | token) - H(code), of the softmax over
        -distance / temperature.
    """

    loss_names: ClassVar[tuple[str, ...]] = ("codebook", "commit")

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int = 1024,
        code_dim: int | None = None,
        unit_length: bool = False,
        revive_below: float = 0.0,
        usage_decay: float = 0.99,
        entropy_temperature: float | None = None,
    ) -> None:
        super().__init__(dim=dim, code_dim=code_dim)
        if codebook_size < 2:
            raise ValueError(f"codebook_size={codebook_size}: at least 2 codes are needed")
        if not 0 <= revive_below < 1:
            raise ValueError(f"revive_below={revive_below}: a share of the even spread, from 0 (off) to below 1")
        self.vocabulary = (codebook_size,)
        self.unit_length = unit_length
        self.revive_below = revive_below
        self.usage_decay = usage_decay
        self.entropy_temperature = entropy_temperature
        if entropy_temperature is not None:
            self.loss_names = (*VQ.loss_names, "entropy")
        self.codebook = nn.Parameter(
            torch.empty(codebook_size, self.code_dim).uniform_(-1 / codebook_size, 1 / codebook_size)
        )
        if unit_length:
            with torch.no_grad():
                self.codebook.copy_(F.normalize(self.codebook, dim=-1))
        # Running share of tokens a code receives, relative to an even spread; only training needs it.
        self.register_buffer("usage", torch.ones(codebook_size), persistent=revive_below > 0)

    def effective_codebook(self) -> Tensor:
        """[K, D], the vectors that are compared and handed on."""
        # Revival writes into the parameter before the backward pass has read it: work on a copy then.
        codebook = self.codebook.clone() if self.training and self.revive_below > 0 else self.codebook
        return F.normalize(codebook, dim=-1) if self.unit_length else codebook

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        z = F.normalize(z_BND, dim=-1) if self.unit_length else z_BND
        codebook = self.effective_codebook()
        indices_BN = nearest_code(z.reshape(-1, self.code_dim), codebook).view(z.shape[:2])
        codes = F.embedding(indices_BN, codebook)
        if not self.training:
            return StreamQuantized(codes, indices_BN[..., None])

        losses = {"codebook": F.mse_loss(codes, z.detach()), "commit": F.mse_loss(z, codes.detach())}
        if self.entropy_temperature is not None:
            losses["entropy"] = softmax_entropy_loss(z.flatten(0, 1), codebook, self.entropy_temperature)
        if self.revive_below > 0 and torch.is_grad_enabled():
            self._revive(z_BND.detach().flatten(0, 1), indices_BN.flatten())
        straight_through = z + (codes - z).detach()
        return StreamQuantized(straight_through, indices_BN[..., None], losses)

    def lookup(self, indices_BNK: Tensor) -> Tensor:
        return F.embedding(indices_BNK[..., 0], self.effective_codebook())

    @torch.no_grad()
    def _revive(self, z_ND: Tensor, indices_N: Tensor) -> None:
        if not finite_on_all_processes(z_ND):
            return
        size = len(self.codebook)
        counts = torch.bincount(indices_N, minlength=size).float()
        several = dist.is_available() and dist.is_initialized()
        if several:
            dist.all_reduce(counts)
        self.usage.lerp_(counts * size / counts.sum(), 1 - self.usage_decay)
        dead = (self.usage < self.revive_below).nonzero()[:, 0]
        if not len(dead):
            return
        # At most as many as there are vectors, or copies of one vector would share its tokens.
        dead = dead[torch.randperm(len(dead), device=dead.device)[: len(z_ND)]]
        fresh = z_ND[torch.randperm(len(z_ND), device=z_ND.device)[: len(dead)]].contiguous()
        if several:  # one rank decides, so that codebooks stay equal
            dist.broadcast(dead, src=0)
            dist.broadcast(fresh, src=0)
        self.codebook[dead] = fresh.to(self.codebook.dtype)
        self.usage[dead] = 1.0


def softmax_entropy_loss(z_ND: Tensor, codebook_KD: Tensor, temperature: float) -> Tensor:
    """LlamaGen's form: mean entropy of a token's soft assignment minus entropy of the mean assignment.

    Offsets of 1e-5 as published; they matter at temperature 0.01.
    """
    distances_NK = torch.cdist(z_ND, codebook_KD, compute_mode="donot_use_mm_for_euclid_dist").square()
    logits = -distances_NK / temperature
    probabilities = logits.softmax(dim=-1)
    per_token = -(probabilities * (logits + 1e-5).log_softmax(dim=-1)).sum(dim=-1).mean()
    mean = probabilities.mean(dim=0)
    return per_token + (mean * (mean + 1e-5).log()).sum()
