"""Pixels as bytes and pixels as the model sees them: [-1, 1], the one range inside imtok."""

import torch
from torch import Tensor


def to_model_range(pixels: Tensor) -> Tensor:
    """uint8 0..255 to float32 [-1, 1]: x / 127.5 - 1."""
    assert pixels.dtype == torch.uint8, f"expected bytes, got {pixels.dtype}"
    return pixels.float().div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """[-1, 1] to bytes, clamped and rounded (truncation would darken every image by half a level)."""
    assert images.is_floating_point(), f"expected floats in [-1, 1], got {images.dtype}"
    return images.detach().float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
