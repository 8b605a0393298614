"""GigaTok's hybrid decoder (arXiv 2504.08736): a Q-Former from codes to a grid, then convolutions to pixels."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.types import Latents
from ..layers.magvit2 import AdaptiveGroupNorm, DepthToSpaceUpsample
from ..layers.masking import seen_tokens
from ..layers.qformer import QFormerBlock
from ..layers.resnet import ResBlock, group_norm, level_widths, to_grid
from ..layers.transformer import init_linear
from .base import Decoder


class CNNQFormerDecoder(Decoder):
    """Mirror of CNNQFormerEncoder; every level of the convolutions begins with a norm that reads the map's statistics.

    All queries begin as the first token. input_size: of the images; given by the tokenizer.
    align_after: the queries after so many blocks go through an MLP to `align_dim` channels, in training
        only: tap `decoder.align` to compare it with a teacher. None: no such MLP.
    """

    any_length = True

    def __init__(
        self,
        *,
        dim: int = 8,
        num_tokens: int = 256,
        input_size: Sequence[int] = (256, 256),
        out_channels: int = 3,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks_per_level: int = 2,
        z_channels: int = 256,
        width: int = 512,
        depth: int = 6,
        num_heads: int = 8,
        qk_norm: bool = False,
        align_after: int | None = None,
        align_dim: int = 768,
    ) -> None:
        super().__init__()
        if align_after is not None and not 1 <= align_after <= depth:
            raise ValueError(f"align_after={align_after}: there are {depth} blocks; 1 to {depth}, or null")
        self.dim = dim
        self.align_after = align_after
        widths = level_widths(channels, channel_multipliers)
        factor = 2 ** (len(widths) - 1)
        self.grid = (input_size[0] // factor, input_size[1] // factor)

        self.embed = nn.Linear(z_channels, width)
        self.norm_codes = nn.LayerNorm(z_channels)
        self.query_positions = nn.Parameter(width**-0.5 * torch.randn(self.grid[0] * self.grid[1], width))
        self.code_positions = nn.Parameter(width**-0.5 * torch.randn(num_tokens, width))
        self.blocks = nn.ModuleList(
            QFormerBlock(width=width, num_heads=num_heads, qk_norm=qk_norm) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.to_map = nn.Conv2d(width, z_channels, 3, padding=1)
        if align_after is not None:
            sizes = (width, 4 * width, 4 * width, align_dim)
            layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
            self.align = nn.Sequential(layers[0], nn.SiLU(), layers[1], nn.SiLU(), layers[2])

        before = widths[-1]
        self.conv_in = nn.Conv2d(z_channels, before, 3, padding=1)
        self.middle = nn.Sequential(*(ResBlock(channels_in=before, channels_out=before) for _ in range(2)))
        self.norms, self.levels = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(widths))):
            self.norms.append(AdaptiveGroupNorm(channels=before, style_channels=z_channels))
            blocks = nn.Sequential()
            for _ in range(blocks_per_level + 1):
                blocks.append(ResBlock(channels_in=before, channels_out=widths[level]))
                before = widths[level]
            if level > 0:
                blocks.append(DepthToSpaceUpsample(channels=before))
            self.levels.append(blocks)
        self.norm_out = group_norm(before)
        self.conv_out = nn.Conv2d(before, out_channels, 3, padding=1)
        init_linear(self)
        self.project = nn.Linear(dim, z_channels)

    def map_of(self, codes: Latents) -> Tensor:
        """[B, z_channels, h, w] of the Q-Former."""
        codes_BMD, visible_BM = seen_tokens(codes["main"])
        memory_BMD = self.embed(self.norm_codes(self.project(codes_BMD)))
        x_BND = memory_BMD[:, :1].expand(-1, self.grid[0] * self.grid[1], -1)
        places = {"place_ND": self.query_positions, "memory_place_MD": self.code_positions[: memory_BMD.shape[1]]}
        for number, block in enumerate(self.blocks, start=1):
            x_BND = block(x_BND, memory_BMD, **places, visible_BM=visible_BM)
            if self.training and number == self.align_after and self.align._forward_hooks:
                self.align(x_BND)  # read by a tap
        return self.to_map(to_grid(self.norm(x_BND), self.grid))

    def paint(self, map_BChw: Tensor) -> Tensor:
        """The convolutions alone."""
        x = self.middle(self.conv_in(map_BChw))
        for norm, level in zip(self.norms, self.levels, strict=True):
            x = level(norm(x, map_BChw))
        return self.conv_out(F.silu(self.norm_out(x)))

    def forward(self, codes: Latents) -> Tensor:
        return self.paint(self.map_of(codes))

    @property
    def last_layer(self) -> Tensor:
        return self.conv_out.weight
