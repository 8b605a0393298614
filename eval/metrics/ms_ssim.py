"""Multi-scale structural similarity (Wang, Simoncelli and Bovik 2003) of uint8 images, by the windows of `ssim`.

Contrast and structure at five scales, halved by 2x2 means, and luminance at the last, each channel by itself: the
arithmetic of tf.image.ssim_multiscale. torchmetrics pads the borders that this leaves out.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...common.types import IndexSegment
from .base import MeanOverImages, Quantity
from .ssim import ssim_maps

EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SMALLEST = 11 * 2 ** (len(EXPONENTS) - 1)


def ms_ssim_per_image(a: Tensor, b: Tensor) -> Tensor:
    """uint8-valued [B, C, H, W] twice to [B]."""
    x, y = a.float(), b.float()
    found = torch.ones(x.shape[:2], dtype=torch.float64, device=x.device)
    for scale, exponent in enumerate(EXPONENTS):
        if scale:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        luminance, structure = ssim_maps(x, y, kind="gaussian11", data_range=255.0)
        term = structure if scale < len(EXPONENTS) - 1 else luminance * structure
        found = found * term.mean((-2, -1)).clamp(min=0).double() ** exponent
    return found.mean(1)


class MsSsim(MeanOverImages):
    """Mean over images."""

    higher_is_better = True
    quantities = {"ms_ssim": Quantity("MS-SSIM", better="higher")}
    group = "Pixels"

    def per_image(self, reference: Tensor, reconstruction: Tensor) -> Tensor:
        return ms_ssim_per_image(reference, reconstruction)

    def start(self, image_size: tuple[int, int], layout: Sequence[IndexSegment]) -> str | None:
        if min(image_size) >= SMALLEST:
            return None
        return f"five scales need images of {SMALLEST} pixels or more, these have {min(image_size)}"

    def words(self) -> list[tuple[str, str]]:
        return [("MS-SSIM", "five scales, Gaussian 11, sigma 1.5, RGB channel mean, data range 255, border cropped")]
