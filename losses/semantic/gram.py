"""Gram matrices of features: which tokens resemble each other, or which channels fire together, as in a teacher.

Over tokens: Simeoni et al., DINOv3, arXiv 2508.10104, section 4.2. Over channels: Gatys et al., arXiv 1508.06576,
equation 3; on the reconstruction it is the texture loss of AToken.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from ..teacher_term import FeatureTerm


class SemanticGram(FeatureTerm):
    """over: tokens (unit-length tokens, N x N cosines; widths may differ) or channels (D x D, mean over tokens)."""

    def __init__(
        self,
        *,
        teacher: str,
        reads: str = "heads.semantic",
        over: Literal["tokens", "channels"] = "tokens",
        projector: Literal["none", "linear", "mlp"] = "none",
    ) -> None:
        super().__init__(teacher=teacher, reads=reads, compare="tokens", projector=projector)
        self.over = over
        self.needs_same_width = over == "channels"

    def distance(self, ours_BND: Tensor, theirs_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        return (self.gram(ours_BND, mask_BN) - self.gram(theirs_BND, mask_BN)).square().mean(dim=(1, 2))

    def gram(self, x_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        if self.over == "tokens":
            x_BND = F.normalize(x_BND, dim=-1)
        if mask_BN is not None:
            x_BND = x_BND * mask_BN[..., None]
        if self.over == "tokens":
            return x_BND @ x_BND.transpose(1, 2)
        return x_BND.transpose(1, 2) @ x_BND / x_BND.shape[1]
