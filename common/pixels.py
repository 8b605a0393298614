"""Pixels as bytes and in [-1, 1], the range inside imtok; squared errors and PSNR per image."""

import torch
from torch import Tensor

# Mean and deviation of images in [0, 1] that classifiers and CLIPs were trained with.
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def to_model_range(pixels: Tensor) -> Tensor:
    """uint8 0..255 to float32 [-1, 1]: x / 127.5 - 1."""
    assert pixels.dtype == torch.uint8, f"expected bytes, got {pixels.dtype}"
    return pixels.float().div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] to bytes, clamped and rounded (truncation would darken every image by half a level)."""
    assert images.is_floating_point(), f"expected floats in [-1, 1], got {images.dtype}"
    return images.detach().float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def mean_psnr(images: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean of the PSNRs of images in [-1, 1]: the range is 2, so the peak squared is 4. Each is 100 dB at most."""
    difference = images.float() - reconstruction.float().clamp(-1, 1)
    return (10 * torch.log10(4 / difference.square().flatten(1).mean(1))).clamp(max=100).mean()


def squared_error_per_image(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference over C, H, W of uint8-valued images, float64 [B].

    Squared differences of bytes are integers below 2^16: a float32 sum over a row of 256 is exact, rows add in float64.
    """
    squares = (a.float() - b.float()).square_()
    return squares.flatten(1, 2).sum(-1).double().mean(-1) / a.shape[-1]


def psnr_from_mse(mse: Tensor, cap: float) -> Tensor:
    return (10 * torch.log10(255.0**2 / mse)).clamp(max=cap)


def to_pixels(images: Tensor, rounding: str = "round") -> Tensor:
    """[-1, 1] to uint8. `floor` loses one level on 63 of 256 grey levels: only to reproduce old numbers."""
    if rounding == "round":
        return to_uint8(images)
    return images.float().clamp(-1, 1).add(1).div(2).mul(255).floor().to(torch.uint8)
