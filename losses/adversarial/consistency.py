"""Balanced consistency regularisation (bCR; Zhao et al., arXiv:2002.04724): logits stay under augmentation."""

import torch.nn.functional as F
from torch import Tensor, nn


class BalancedConsistency(nn.Module):
    """Squared difference of the logits of the images and of the same images augmented; unweighted, as LeCam.

    augment: of the second pass, in place of the discriminator's own (UniTok: the same without its fading blur). null:
        that one, which draws anew in every pass.
    """

    def __init__(self, *, weight: float = 4.0, augment: nn.Module | None = None) -> None:
        super().__init__()
        self.weight = weight
        self.augment = augment

    def forward(self, discriminator: nn.Module, images: Tensor, logits: Tensor) -> Tensor:
        if self.augment is None:
            return F.mse_loss(discriminator(images).float(), logits)
        seen = self.augment(images.float()) if self.training else images
        instead = {"augmented": True} if getattr(discriminator, "augment", None) is not None else {}
        return F.mse_loss(discriminator(seen, **instead).float(), logits)
