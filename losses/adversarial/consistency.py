"""Balanced consistency regularisation (bCR; Zhao et al., arXiv:2002.04724): logits stay under augmentation."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class BalancedConsistency(nn.Module):
    """Squared difference of the logits of the images and of the same images augmented; unweighted, as LeCam.

    augment: of the second pass. null: the discriminator's own, which draws anew in every pass.
    """

    def __init__(self, *, weight: float = 4.0, augment: nn.Module | None = None) -> None:
        super().__init__()
        self.weight = weight
        self.augment = augment

    def forward(self, discriminator: Callable[[Tensor], Tensor], images: Tensor, logits: Tensor) -> Tensor:
        seen = images if self.augment is None else self.augment(images.float())
        return F.mse_loss(discriminator(seen).float(), logits)
