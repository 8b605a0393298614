"""Multi-scale residual quantization with binary codes (MSBR of XQ-GAN, arXiv 2412.01762)."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...layers.resnet import to_tokens
from .multi_scale_vq import MultiScaleQuantizer
from .shared.bit_entropies import bit_entropies
from .shared.limits import check_positive


class MultiScaleBSQ(MultiScaleQuantizer):
    """Vectors on the unit sphere; every scale's codes are the corners +-scale^s / sqrt(bits). No codebook.

    Further loss, raw: `entropy`, mean over scales of per-bit H(bit | token) - H(bit), of p = sigmoid(4 r / sqrt(bits))
    with r what the scales before left over.

    scale: each scale's corners are so many times the size of the one before.
    """

    loss_names: tuple[str, ...] = ("codebook", "commit", "entropy")

    def __init__(
        self,
        *,
        dim: int,
        bits: int = 12,
        scales: Sequence[int] = (1, 1, 2, 3, 3, 4, 5, 6, 8, 11),
        scale: float = 1.0,
        phi_convs: int = 4,
        phi_ratio: float = 0.5,
        quantizer_dropout: float = 0.0,
        least_stages: int = 1,
        commit_reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        if not 1 <= bits <= 62:
            raise ValueError(f"bits={bits}: from 1 to 62, one int64 index per place")
        super().__init__(
            dim=dim,
            code_dim=bits,
            scales=scales,
            phi_convs=phi_convs,
            phi_ratio=phi_ratio,
            quantizer_dropout=quantizer_dropout,
            least_stages=least_stages,
            commit_reduction=commit_reduction,
        )
        check_positive(scale=scale)
        self.scale = scale
        self.vocabulary = (2**bits,)

    def prepare(self, z_BDhw: Tensor) -> Tensor:
        return F.normalize(z_BDhw, dim=1)

    def choose(self, residual_ND: Tensor, scale: int) -> Tensor:
        place = torch.arange(self.code_dim, device=residual_ND.device)  # the first channel is worth 1
        return ((residual_ND > 0).long() << place).sum(dim=-1)

    def codes_at(self, indices: Tensor, scale: int) -> Tensor:
        place = torch.arange(self.code_dim, device=indices.device)
        signs = ((indices[..., None] >> place) & 1).float() * 2 - 1
        return signs * (self.scale**scale / self.code_dim**0.5)

    def further_losses(self, left: Sequence[tuple[Tensor, Tensor | None]]) -> dict[str, Tensor]:
        sets = []
        for scale, (residual_BDhw, keep_B) in enumerate(left):
            logits = to_tokens(residual_BDhw) * (4 * self.scale**scale / self.code_dim**0.5)
            sets.append((logits, keep_B))
        found = [per_token - of_mean for per_token, of_mean in bit_entropies(sets)]
        return {"entropy": torch.stack(found).mean()}
