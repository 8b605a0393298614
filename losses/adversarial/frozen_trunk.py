"""A discriminator that judges by what a frozen network sees: a small trained head on each of several depths.

StyleGAN-T (Sauer et al., arXiv:2301.09515) and those after it; which network, and its sizes: dino.py, dinov2.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from ...common.errors import UserError


class FrozenTrunk(nn.Module, ABC):
    """Images in [-1, 1], prepared by `to_side`, to features [B, width, tokens] of `depths` places."""

    width: int
    depths: int
    weights_are_random: bool = True

    @abstractmethod
    def side_for(self, side: int) -> int:
        """What a picture's side of so many pixels is brought to."""


class FrozenTrunkDiscriminator(nn.Module):
    """Images in [-1, 1] to logits, those of all depths side by side.

    augment: what the images go through in training, DiffAugment or null. kernel: of the second convolution of a head.
    norm: "local_batch" (groups of eight, VAR and XQ-GAN) or "group" (UniTok). spectral: of all weights of the heads.
    The frozen trunk is hidden from the module tree: no checkpoint or optimizer finds it, but it moves with `.to`.
    """

    def __init__(
        self, *, trunk: FrozenTrunk, augment: nn.Module | None, kernel: int, norm: str, spectral: bool
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise UserError(f"adversary.discriminator.kernel={kernel}: give an odd number")
        self.__dict__["trunk"] = trunk.requires_grad_(False).eval()
        self.augment = augment
        self.kernel = kernel

        def block(kernel: int) -> nn.Sequential:
            normed = _norm(norm, trunk.width)
            return nn.Sequential(_convolution(trunk.width, trunk.width, kernel, spectral), normed, nn.LeakyReLU(0.2))

        self.heads = nn.ModuleList(
            nn.Sequential(block(1), Residual(block(kernel)), _convolution(trunk.width, 1, 1, spectral))
            for _ in range(trunk.depths)
        )

    @property
    def weights_are_random(self) -> bool:
        return self.trunk.weights_are_random

    def forward(self, images: Tensor) -> Tensor:
        if self.augment is not None and self.training:
            images = self.augment(images.float())
        features = self.trunk(self._to_side(images.float()))
        return torch.cat([head(x).flatten(1) for head, x in zip(self.heads, features, strict=True)], dim=1)

    def _to_side(self, images: Tensor) -> Tensor:
        """Larger pictures are cropped or shrunk, each half the time, so that fine and coarse are both judged."""
        height, width = images.shape[-2:]
        rows, columns = self.trunk.side_for(height), self.trunk.side_for(width)
        if height > rows and width > columns:
            if self.training and float(torch.rand(())) <= 0.5:
                top, left = (int(torch.randint(more + 1, ())) for more in (height - rows, width - columns))
                return images[..., top : top + rows, left : left + columns]
            return F.interpolate(images, (rows, columns), mode="area")
        return F.interpolate(images, (rows, columns), mode="bicubic")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FrozenTrunkDiscriminator":
        self.trunk._apply(fn)
        return super()._apply(fn, recurse)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return (self.inner(x) + x) / 2**0.5


class LocalBatchNorm(nn.Module):
    """Batch norm over groups of at most `group` samples, in training and in eval: no running statistics."""

    def __init__(self, *, width: int, group: int = 8, eps: float = 1e-6) -> None:
        super().__init__()
        self.group = group
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x_BCL: Tensor) -> Tensor:
        groups = x_BCL.float().tensor_split(-(-len(x_BCL) // self.group))
        with torch.autocast(x_BCL.device.type, enabled=False):
            normed = [F.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps) for x in groups]
        return torch.cat(normed)


def check_taps(taps: Sequence[int], depth: int) -> None:
    if not taps or min(taps) < 0 or max(taps) >= depth:
        raise UserError(f"adversary.discriminator.taps={list(taps)}: blocks are 0 to {depth - 1}")


def patches_and_class(x_BND: Tensor) -> Tensor:
    """[B, D, N]: every patch token plus the class token that stands before them."""
    x_BND = x_BND.float()
    return (x_BND[:, 1:] + x_BND[:, :1]).transpose(1, 2)


def fill_randomly(trunk: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in trunk.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02, generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def _norm(name: str, width: int) -> nn.Module:
    if name == "local_batch":
        return LocalBatchNorm(width=width)
    if name == "group":
        if width % 32:
            raise UserError(f"adversary.discriminator.norm=group: 32 groups do not divide a width of {width}")
        return nn.GroupNorm(32, width, eps=1e-6)
    raise UserError(f"adversary.discriminator.norm={name}: give local_batch or group")


def _convolution(channels_in: int, channels_out: int, kernel: int, spectral: bool) -> nn.Module:
    conv = nn.Conv1d(channels_in, channels_out, kernel, padding=kernel // 2, padding_mode="circular")
    return spectral_norm(conv) if spectral else conv
