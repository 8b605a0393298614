"""Differentiable augmentation of what a discriminator sees (DiffAugment, Zhao et al., arXiv:2006.10738)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...configs.errors import UserError


class DiffAugment(nn.Module):
    """Shift, colour and a blanked square, drawn anew for every picture; as StyleGAN-T (arXiv:2301.09515) has it.

    chance: that each of the three is applied to a batch. shift, cutout: shares of the side; cutout 0: none.
    """

    def __init__(self, *, chance: float = 1.0, shift: float = 0.125, cutout: float = 0.2) -> None:
        super().__init__()
        for name, value in (("chance", chance), ("shift", shift), ("cutout", cutout)):
            if not 0 <= value <= 1:
                raise UserError(f"adversary.discriminator.augment.{name}={value}: a share, from 0 to 1")
        self.chance = chance
        self.shift = shift
        self.cutout = cutout

    def forward(self, images: Tensor) -> Tensor:
        shifts, colours, cuts = (torch.rand(3) < self.chance).tolist()
        if shifts:
            images = shifted(images, self.shift)
        if colours:
            images = recoloured(images)
        if cuts and self.cutout:
            images = cut_out(images, self.cutout)
        return images


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
    """A square of `share` of the side is black; its centre lies anywhere in the picture."""
    inside = []
    for side in images.shape[2:]:
        length = round(side * share)
        centre_B1 = torch.randint(side + 1 - length % 2, (len(images), 1), device=images.device)
        from_start = torch.arange(side, device=images.device) - (centre_B1 - length // 2)
        inside.append((from_start >= 0) & (from_start < length))
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return images.masked_fill(square, 0.0)
