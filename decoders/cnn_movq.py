"""MoVQ's decoder (Zheng et al., arXiv 2209.09002) over one or several streams of codes (ILLUME+, 2504.01934)."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.types import Latents
from ..layers.movq import ShuffleUp, SpatialNorm, SpatialNormAttention, SpatialResBlock
from ..layers.resnet import Upsample, check_levels, level_widths
from .base import Decoder


class CNNMoVQDecoder(Decoder):
    """Every norm reads the codes again, of all streams concatenated.

    shortcuts: around doubling the side and into the first level (DC-AE's, as ILLUME+ has them); false: MoVQ's own.
    dim: with several streams, the last one's grid is the image's; the others are brought to it by bicubic
        interpolation.
    swapped, swapped_samples: share of the last stream's codes that training replaces by those of the sample before, and
        share of the samples where it does, so that the other streams are needed (ILLUME+: 0.1 and 0.1).
    """

    needs_grid = True
    last_layer_name = "conv_out.weight"

    def __init__(
        self,
        *,
        dim: int | Mapping[str, int],
        channels: int = 384,
        channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks_per_level: int = 2,
        attention_levels: Sequence[int] = (-1,),
        z_channels: int | None = None,
        dropout: float = 0.0,
        swapped: float = 0.0,
        swapped_samples: float = 1.0,
        out_channels: int = 3,
        shortcuts: bool = True,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.streams = ("main",) if isinstance(dim, int) else tuple(dim)
        code_dim = dim if isinstance(dim, int) else sum(dim.values())
        widths = level_widths(channels, channel_multipliers)
        with_attention = check_levels(attention_levels, len(widths))
        z_channels = z_channels or code_dim
        for name, share in (("swapped", swapped), ("swapped_samples", swapped_samples)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name}={share}: a share, from 0 to 1")
        if shortcuts and widths[-1] % z_channels:
            raise ValueError(
                f"z_channels={z_channels}: the last level's {widths[-1]} channels do not divide by it; take a divisor "
                "or shortcuts=false"
            )
        self.shortcuts = shortcuts
        self.swapped, self.swapped_samples = swapped, swapped_samples

        def block(before: int, after: int) -> SpatialResBlock:
            return SpatialResBlock(channels_in=before, channels_out=after, code_dim=code_dim, dropout=dropout)

        self.project = nn.Conv2d(code_dim, z_channels, 1)
        width = widths[-1]
        self.conv_in = nn.Conv2d(z_channels, width, 3, padding=1)
        attention = SpatialNormAttention(channels=width, code_dim=code_dim)
        self.middle = nn.ModuleList([block(width, width), attention, block(width, width)])
        self.levels = nn.ModuleList()
        for level in reversed(range(len(widths))):
            blocks = nn.ModuleList()
            for _ in range(blocks_per_level + 1):
                blocks.append(block(width, widths[level]))
                width = widths[level]
                if level in with_attention:
                    blocks.append(SpatialNormAttention(channels=width, code_dim=code_dim))
            if level > 0:
                blocks.append(ShuffleUp(channels=width) if shortcuts else Upsample(channels=width))
            self.levels.append(blocks)
        self.norm_out = SpatialNorm(channels=width, code_dim=code_dim)
        self.conv_out = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(self, codes: Latents) -> Tensor:
        codes_BDhw = self.joined(codes)
        z = self.project(codes_BDhw)
        x = self.conv_in(z)
        if self.shortcuts:
            x = x + z.repeat_interleave(self.conv_in.out_channels // z.shape[1], dim=1)
        for block in (*self.middle, *(block for level in self.levels for block in level.children())):
            x = block(x) if isinstance(block, (ShuffleUp, Upsample)) else block(x, codes_BDhw)
        return self.conv_out(F.silu(self.norm_out(x, codes_BDhw)))

    def joined(self, codes: Latents) -> Tensor:
        """[B, sum of widths, h, w] on the last stream's grid."""
        grid = codes[self.streams[-1]].as_grid().shape[-2:]
        parts = [codes[name].as_grid() for name in self.streams]
        parts = [p if p.shape[-2:] == grid else F.interpolate(p, grid, mode="bicubic") for p in parts]
        if self.training and self.swapped:
            parts[-1] = self._some_swapped(parts[-1])
        return torch.cat(parts, dim=1)

    def _some_swapped(self, part_BDhw: Tensor) -> Tensor:
        B, _, h, w = part_BDhw.shape
        samples = torch.rand(B, 1, 1, 1, device=part_BDhw.device) < self.swapped_samples
        places = torch.rand(B, 1, h, w, device=part_BDhw.device) < self.swapped
        return torch.where(samples & places, part_BDhw.roll(1, dims=0).detach(), part_BDhw)
