"""Pixels in [0, 1] inside a network, in [-1, 1] outside."""

from typing import Literal

import torch
from torch import Tensor, nn

ImageRange = Literal["signed", "unit"]


class PixelRange(nn.Module):
    """image_range: "signed" is [-1, 1], as everywhere; "unit" [0, 1].

    Folding the change into a convolution's weights would give the same images, but other gradients of that layer, and
    so another clipped norm and other steps. The buffer keeps weights of one range from being loaded into the other.
    """

    def __init__(self, image_range: ImageRange) -> None:
        super().__init__()
        self.unit = image_range == "unit"
        if self.unit:
            self.bounds = nn.Buffer(torch.tensor([0.0, 1.0]))

    def inward(self, images: Tensor) -> Tensor:
        return (images + 1) / 2 if self.unit else images

    def outward(self, made: Tensor) -> Tensor:
        return 2 * made - 1 if self.unit else made
