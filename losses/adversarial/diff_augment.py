"""Differentiable augmentation of a discriminator's input (DiffAugment, Zhao et al., arXiv:2006.10738)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DiffAugment(nn.Module):
    """Shift, colour and a blanked square, drawn anew for every image; as StyleGAN-T (arXiv:2301.09515) has it.

    chance: that each of the three is applied to a batch. shift, cutout: shares of the side; cutout 0: none.
    blur_updates: updates from the GAN's start in which a blur fades, at first of sqrt(side / 2) pixels, so that a fresh
        discriminator judges coarse things first. 0: no blur.
    """

    def __init__(
        self, *, chance: float = 1.0, shift: float = 0.125, cutout: float = 0.2, blur_updates: int = 0
    ) -> None:
        super().__init__()
        if blur_updates < 0:
            raise ValueError(f"blur_updates={blur_updates}: 0 or more")
        for name, value in (("chance", chance), ("shift", shift), ("cutout", cutout)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}: a share, from 0 to 1")
        self.chance = chance
        self.shift = shift
        self.cutout = cutout
        self.blur_updates = blur_updates
        self.since_start = 0

    def set_update(self, since_start: int) -> None:
        """Generator updates since the GAN began; fewer than 0 while only the discriminator trains."""
        self.since_start = since_start

    def forward(self, images: Tensor) -> Tensor:
        left = 1 - max(self.since_start, 0) / self.blur_updates if self.blur_updates else 0.0
        if left > 0:
            images = blurred(images, left * (images.shape[-2] / 2) ** 0.5)
        images = self._perhaps(shifted, images, self.shift)
        images = self._perhaps(recoloured, images)
        return self._perhaps(cut_out, images, self.cutout) if self.cutout else images

    def _perhaps(self, change: Callable[..., Tensor], images: Tensor, *how: float) -> Tensor:
        if self.chance == 0:
            return images
        changed = change(images, *how)
        if self.chance == 1:
            return changed
        # Drawn on the device: the host would otherwise decide for itself, which no compiled graph holds.
        return torch.where(torch.rand((), device=images.device) < self.chance, changed, images)


def blurred(images: Tensor, width: float) -> Tensor:
    """Taps of 2^-(x / width)^2 within 3 widths, one axis after the other; edges are mirrored."""
    radius = min(int(3 * width), min(images.shape[2:]) - 1)
    if radius < 1:
        return images
    x = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    taps = torch.exp2(-(x / width).square())
    taps = (taps / taps.sum()).expand(images.shape[1], 1, -1)
    channels, padding = images.shape[1], (radius, radius, radius, radius)
    images = F.pad(images, padding, mode="reflect")
    return F.conv2d(F.conv2d(images, taps[..., None], groups=channels), taps[:, :, None], groups=channels)


def shifted(images: Tensor, share: float) -> Tensor:
    """By whole pixels, at most `share` of the side; black (0) comes in from outside."""
    for axis in (2, 3):
        side = images.shape[axis]
        most = round(side * share)
        by_B1 = torch.randint(-most, most + 1, (len(images), 1), device=images.device)
        source = (torch.arange(side, device=images.device) + by_B1 + 1).clamp(0, side + 1)  # one row of padding a side
        padded = F.pad(images, (0, 0, 1, 1) if axis == 2 else (1, 1, 0, 0))
        index = source[:, None, :, None] if axis == 2 else source[:, None, None, :]
        images = padded.gather(axis, index.expand(*images.shape))
    return images


def recoloured(images: Tensor) -> Tensor:
    """Brightness + (-0.5 .. 0.5), saturation x (0 .. 2), contrast x (0.5 .. 1.5)."""
    brightness, saturation, contrast = torch.rand(3, len(images), 1, 1, 1, device=images.device)
    images = images + brightness - 0.5
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * (2 * saturation) + grey
    flat = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - flat) * (contrast + 0.5) + flat


def cut_out(images: Tensor, share: float) -> Tensor:
    """A black square of `share` of the side; its centre is anywhere in the image."""
    inside = []
    for side in images.shape[2:]:
        length = round(side * share)
        centre_B1 = torch.randint(side + 1 - length % 2, (len(images), 1), device=images.device)
        from_start = torch.arange(side, device=images.device) - (centre_B1 - length // 2)
        inside.append((from_start >= 0) & (from_start < length))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images.masked_fill(square, 0.0)
