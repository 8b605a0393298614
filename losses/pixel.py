"""Pixel losses, mean over every element as all published systems take them."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..common.types import TokenizerOutput
from .base import LossTerm, mean_over_samples


class PixelLoss(LossTerm):
    """Compares the unclamped reconstruction with the image, in fp32.

    skip_masked_samples: leave out what quantized.sample_mask excludes. Off: quantizer dropout (XQ-GAN), the method that
    sets the mask, keeps its samples in the pixel terms and takes them out of the semantic ones only.
    """

    needs_reconstruction = True

    def __init__(self, *, skip_masked_samples: bool = False) -> None:
        super().__init__()
        self.skip_masked_samples = skip_masked_samples

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        assert output.reconstruction is not None, "misfit refuses decoders without one"
        difference = output.reconstruction.float() - batch["image"].float()
        per_sample = self.penalty(difference).flatten(1).mean(1)
        return mean_over_samples(per_sample, output.quantized.sample_mask if self.skip_masked_samples else None)

    @abstractmethod
    def penalty(self, difference: Tensor) -> Tensor:
        """Of each element."""


class L1(PixelLoss):
    """Mean absolute error (VQGAN, Open-MAGVIT2)."""

    def penalty(self, difference: Tensor) -> Tensor:
        return difference.abs()


class L2(PixelLoss):
    """Mean squared error (LlamaGen, TiTok)."""

    def penalty(self, difference: Tensor) -> Tensor:
        return difference.square()
