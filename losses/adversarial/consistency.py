"""Balanced consistency regularisation (bCR; Zhao et al., arXiv:2002.04724): augmenting moves no logit, real or fake."""

import torch.nn.functional as F
from torch import Tensor, nn


class BalancedConsistency(nn.Module):
    """Squared difference of the logits of two looks at the same pictures; the Adversary multiplies by `weight`.

    augment: of the second look. null: the discriminator's own, which draws anew at every look.
    """

    def __init__(self, *, weight: float = 4.0, augment: nn.Module | None = None) -> None:
        super().__init__()
        self.weight = weight
        self.augment = augment

    def forward(self, discriminator: nn.Module, images: Tensor, logits: Tensor) -> Tensor:
        seen = images if self.augment is None else self.augment(images.float())
        return F.mse_loss(discriminator(seen).float(), logits)
