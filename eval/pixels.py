"""The one rounding that every pixel metric and the Frechet distance read."""

import torch
from torch import Tensor

from ..data.range import to_uint8


def to_pixels(images: Tensor, rounding: str = "round") -> Tensor:
    """[-1, 1] to uint8. `floor` loses one level on 63 of 256 grey levels: only to reproduce old numbers."""
    if rounding == "round":
        return to_uint8(images)
    return images.float().clamp(-1, 1).add(1).div(2).mul(255).floor().to(torch.uint8)
