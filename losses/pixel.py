"""Pixel losses, mean over every element as all published systems take them."""

from torch import Tensor

from .base import ReconstructionTerm


class L1(ReconstructionTerm):
    """Mean absolute error (VQGAN, Open-MAGVIT2)."""

    def distance(self, images: Tensor, target: Tensor) -> Tensor:
        return (images.float() - target.float()).abs().flatten(1).mean(1)


class L2(ReconstructionTerm):
    """Mean squared error (LlamaGen, TiTok)."""

    def distance(self, images: Tensor, target: Tensor) -> Tensor:
        return (images.float() - target.float()).square().flatten(1).mean(1)
