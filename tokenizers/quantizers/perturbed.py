"""Latent perturbation (RobustTok, Qiu et al., arXiv 2503.08354): a decoder trained on neighbouring codes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import StreamQuantized
from .shared.codebook_start import CodebookStart
from .shared.limits import check_share
from .shared.nearest import CPU_CHUNK_FLOATS, CUDA_CHUNK_FLOATS
from .vq import VQ


class PerturbedVQ(VQ):
    """VQ whose codes are sometimes replaced by neighbouring ones in training; eval, indices and losses are VQ's.

    share: of the images of a batch are perturbed, the first ones.
    chance: that a token of such an image is replaced.
    nearest: it then becomes one of that many nearest codes, its own among them, each as likely.
    anneal: updates between which chance and nearest shrink to end_ratio of their value; null: they never do.
    """

    joined_batch_equal = False  # every process perturbs its own first images, with draws of its own

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int = 1024,
        code_dim: int | None = None,
        unit_length: bool = False,
        revive_below: float = 0.0,
        init: CodebookStart | None = None,
        entropy_temperature: float | None = None,
        share: float = 0.1,
        chance: float = 1.0,
        nearest: int = 100,
        anneal: Sequence[int] | None = None,
        end_ratio: float = 0.5,
    ) -> None:
        super().__init__(
            dim=dim,
            codebook_size=codebook_size,
            code_dim=code_dim,
            unit_length=unit_length,
            revive_below=revive_below,
            init=init,
            entropy_temperature=entropy_temperature,
        )
        check_share(share=share, chance=chance, end_ratio=end_ratio)
        if not 1 <= nearest <= codebook_size:
            raise ValueError(f"nearest={nearest}: between 1 and the {codebook_size} codes of codebook_size")
        if anneal is not None and (len(anneal) != 2 or not 0 <= anneal[0] < anneal[1]):
            raise ValueError(f"anneal={list(anneal)}: two updates, first and last, or null")
        self.share, self.chance, self.nearest, self.anneal = share, chance, nearest, anneal
        self.end_ratio = end_ratio
        self.ratio = 1.0

    def set_update(self, update: int) -> None:
        if self.anneal is not None:
            first, last = self.anneal
            progress = min(max((update - first) / (last - first), 0.0), 1.0)
            self.ratio = 1 - progress * (1 - self.end_ratio)

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        result = super().quantize(z_BND)
        count = int(self.share * len(z_BND))
        among = int(self.nearest * self.ratio)
        if not self.training or count == 0 or among < 2:
            return result
        z = F.normalize(z_BND[:count], dim=-1) if self.unit_length else z_BND[:count]
        codebook = self.effective_codebook().detach()
        drawn = drawn_neighbours(z.detach().flatten(0, 1), codebook, among).view(z.shape[:2])
        given_away = torch.rand(drawn.shape, device=drawn.device) < self.chance * self.ratio
        indices = torch.where(given_away, drawn, result.indices_BNK[:count, :, 0])
        perturbed = self.cross(z, F.embedding(indices, codebook))
        result.codes_BND = torch.cat([perturbed, result.codes_BND[count:]])
        return result


@torch.no_grad()
def drawn_neighbours(z_ND: Tensor, codebook_KD: Tensor, among: int) -> Tensor:
    """For every vector the index of one of its `among` nearest codes, each as likely."""
    half_norms_K = codebook_KD.square().sum(dim=1) / 2
    rank_N1 = torch.randint(among, (len(z_ND), 1), device=z_ND.device)
    rows = max(16, (CUDA_CHUNK_FLOATS if z_ND.is_cuda else CPU_CHUNK_FLOATS) // len(codebook_KD))
    chosen = [
        (z @ codebook_KD.T - half_norms_K).topk(among, dim=1).indices.gather(1, rank)[:, 0]
        for z, rank in zip(z_ND.split(rows), rank_N1.split(rows), strict=True)
    ]
    return torch.cat(chosen)
