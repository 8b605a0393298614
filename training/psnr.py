"""A cheap PSNR for logs: mean over images, in [-1, 1], without the rounding that reports do."""

import torch
from torch import Tensor


def mean_psnr(images: Tensor, reconstruction: Tensor) -> Tensor:
    return psnr_per_image(images, reconstruction).mean()


def psnr_per_image(images: Tensor, reconstruction: Tensor) -> Tensor:
    """The range is 2, so the peak squared is 4; 100 dB at most."""
    difference = images.float() - reconstruction.float().clamp(-1, 1)
    return (10 * torch.log10(4 / difference.square().flatten(1).mean(1))).clamp(max=100)
