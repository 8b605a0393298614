"""A discriminator on the features of a frozen network: a small trained head on each of several depths.

StyleGAN-T (Sauer et al., arXiv:2301.09515) and those after it; which network, and its sizes: dino.py, dinov2.py.
"""

import math
import random
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from ...common.frozen import Frozen
from ...common.types import Grid
from ...common.weights import Weights
from ...tokenizers.towers.base import Standardize


class ViTTrunk(nn.Module):
    """A timm ViT: images in [-1, 1] to patch tokens plus class token, [B, width, tokens], at `depths` places.

    taps: blocks after which features are taken; before_blocks: and once before the first.
    side: of the images that it takes; None: all multiples of its patches' side.
    position_offset: of DINOv2's own resampling of positions to another grid (`resampled_positions`); None: timm's.
    """

    def __init__(
        self,
        vit: Any,
        origin: Weights,
        *,
        taps: Sequence[int],
        before_blocks: bool = False,
        side: int | None = None,
        position_offset: float | None = None,
    ) -> None:
        super().__init__()
        if not taps or min(taps) < 0 or max(taps) >= len(vit.blocks):
            raise ValueError(f"taps={list(taps)}: blocks are 0 to {len(vit.blocks) - 1}")
        if origin.random:
            fill_randomly(vit)
        self.vit, self.origin = vit, origin
        self.taps, self.before_blocks, self.side = tuple(taps), before_blocks, side
        self.width, self.depths = int(vit.embed_dim), before_blocks + len(taps)
        self.standardize, self.position_offset = Standardize("imagenet"), position_offset

    def side_for(self, side: int) -> int:
        """The side that an image's side of so many pixels is resized to."""
        patch = self.vit.patch_embed.patch_size[0]
        return self.side or max(side // patch, 1) * patch

    def forward(self, images: Tensor) -> list[Tensor]:
        x_BND = self._with_positions(self.vit.patch_embed(self.standardize(images)))
        found = [x_BND] if self.before_blocks else []
        for number, block in enumerate(self.vit.blocks):
            x_BND = block(x_BND)
            if number in self.taps:
                found.append(x_BND)
        return [(x[:, 1:] + x[:, :1]).transpose(1, 2) for x in map(Tensor.float, found)]

    def _with_positions(self, patches: Tensor) -> Tensor:
        """Class token and patches with their positions; patches: [B, h, w, D] where the grid may vary."""
        if self.position_offset is None:
            return self.vit._pos_embed(patches)
        grid = (int(patches.shape[1]), int(patches.shape[2]))
        x_BND = torch.cat([self.vit.cls_token.expand(len(patches), -1, -1), patches.flatten(1, 2)], dim=1)
        return x_BND + resampled_positions(self.vit.pos_embed, grid, offset=self.position_offset)


def resampled_positions(positions_1ND: Tensor, grid: Grid, *, offset: float) -> Tensor:
    """A class token's position and those of a square grid, brought to another grid as DINOv2 does (arXiv 2304.07193).

    Bicubic without antialiasing, by the factor (side + offset) / trained side, so that samples are not quite where the
    grid's exact factor would put them.
    """
    trained = math.isqrt(positions_1ND.shape[1] - 1)
    if grid == (trained, trained):
        return positions_1ND
    first, rest = positions_1ND[:, :1], positions_1ND[:, 1:].float()
    square = rest.unflatten(1, (trained, trained)).permute(0, 3, 1, 2)
    factors = [(side + offset) / trained for side in grid]
    moved = F.interpolate(square, scale_factor=factors, mode="bicubic")
    assert tuple(moved.shape[-2:]) == grid, (moved.shape, grid)
    return torch.cat([first, moved.flatten(2).transpose(1, 2).to(first.dtype)], dim=1)


class FrozenTrunkDiscriminator(nn.Module):
    """Images in [-1, 1] to logits, those of all depths concatenated.

    augment: what the images go through in training, DiffAugment or null. kernel: of the second convolution of a head.
    norm: "local_batch" (groups of eight, VAR and XQ-GAN) or "group" (UniTok). spectral: of all weights of the heads.
    crop_chance: in training, that larger images are cropped to the trunk's side and not shrunk.
    """

    def __init__(
        self,
        *,
        trunk: ViTTrunk,
        augment: nn.Module | None,
        kernel: int,
        norm: Literal["local_batch", "group"],
        spectral: bool,
        crop_chance: float,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel={kernel}: give an odd number")
        self.trunk = Frozen(trunk)
        self.augment = augment
        self.kernel, self.crop_chance = kernel, crop_chance
        if not 0 <= crop_chance <= 1:
            raise ValueError(f"crop_chance={crop_chance}: from 0 to 1")

        def block(kernel: int) -> nn.Sequential:
            normed = LocalBatchNorm(width=trunk.width) if norm == "local_batch" else _group_norm(trunk.width)
            return nn.Sequential(_convolution(trunk.width, trunk.width, kernel, spectral), normed, nn.LeakyReLU(0.2))

        self.heads = nn.ModuleList(
            nn.Sequential(block(1), Residual(block(kernel)), _convolution(trunk.width, 1, 1, spectral))
            for _ in range(trunk.depths)
        )

    def forward(self, images: Tensor, *, augmented: bool = False) -> Tensor:
        """augmented: the images are, by something else."""
        features = self.trunk(self._seen(images.float(), augmented))
        return torch.cat([head(x).flatten(1) for head, x in zip(self.heads, features, strict=True)], dim=1)

    @torch.compiler.disable  # chance that the host draws, and a blur of another width in every update
    def _seen(self, images: Tensor, augmented: bool) -> Tensor:
        if self.augment is not None and self.training and not augmented:
            images = self.augment(images)
        return self._to_side(images)

    def _to_side(self, images: Tensor) -> Tensor:
        """Larger images are cropped or shrunk at random, so that fine and coarse are both judged."""
        height, width = images.shape[-2:]
        rows, columns = self.trunk.side_for(height), self.trunk.side_for(width)
        if height > rows and width > columns:
            if self.training and random.random() < self.crop_chance:
                top, left = (random.randint(0, more) for more in (height - rows, width - columns))
                return images[..., top : top + rows, left : left + columns]
            return F.interpolate(images, (rows, columns), mode="area")
        return F.interpolate(images, (rows, columns), mode="bicubic")


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
        with torch.autocast(x_BCL.device.type, enabled=False):
            x_BCL = x_BCL.float()
            groups, width = -(-len(x_BCL) // self.group), x_BCL.shape[1]
            fewer, over = divmod(len(x_BCL), groups)  # the first `over` groups have a sample more
            parts = x_BCL.split([over * (fewer + 1), (groups - over) * fewer]) if over else (x_BCL,)
            normed = []
            for x, size in zip(parts, (fewer + 1, fewer) if over else (fewer,), strict=True):
                # Group norm of [groups, C, samples x L] with a group a channel: all groups in one kernel.
                x_GCgL = x.unflatten(0, (-1, size)).transpose(1, 2)
                x_GCgL = F.group_norm(x_GCgL, width, self.weight, self.bias, self.eps)
                normed.append(x_GCgL.transpose(1, 2).flatten(0, 1))
        return torch.cat(normed) if over else normed[0]


def fill_randomly(trunk: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in trunk.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.02, generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


def _group_norm(width: int) -> nn.Module:
    if width % 32:
        raise ValueError(f"width={width}: 32 groups do not divide it")
    return nn.GroupNorm(32, width, eps=1e-6)


def _convolution(channels_in: int, channels_out: int, kernel: int, spectral: bool) -> nn.Module:
    conv = nn.Conv1d(channels_in, channels_out, kernel, padding=kernel // 2, padding_mode="circular")
    return spectral_norm(conv) if spectral else conv
