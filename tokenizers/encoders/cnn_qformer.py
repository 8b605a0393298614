"""GigaTok's hybrid encoder: convolutions, then a Q-Former on their map (Xiong et al., arXiv 2504.08736)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.types import Latents, Stream, height_width
from ...layers.qformer import QFormerBlock, check_pyramid, pyramid
from ...layers.resnet import Downsample, ResBlock, group_norm, level_widths, to_tokens
from ...layers.transformer import init_linear
from .base import FixedSizeEncoder


class CNNQFormerEncoder(FixedSizeEncoder):
    """A VQGAN encoder without attention, then a Q-Former from its map to `num_tokens` vectors without a grid.

    dim: width handed to the quantizer. num_tokens: a power of two; the first queries are means over ever smaller parts
    of the map. input_size: of the images, for which positions are learned; given by the tokenizer.
    width, depth, num_heads: of the Q-Former; published: S 512/6/8, B 768/12/12, L 1024/24/16, XL 1280/36/20.
    """

    def __init__(
        self,
        *,
        dim: int = 8,
        num_tokens: int = 256,
        input_size: Sequence[int] = (256, 256),
        in_channels: int = 3,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks_per_level: int = 2,
        z_channels: int = 256,
        width: int = 512,
        depth: int = 6,
        num_heads: int = 8,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.num_tokens = dim, num_tokens
        self.input_size = height_width(input_size)
        widths = level_widths(channels, channel_multipliers)
        factor = 2 ** (len(widths) - 1)
        if any(side % factor for side in self.input_size):
            raise ValueError(f"channel_multipliers={list(channel_multipliers)}: {factor} must divide both sides")
        grid = (self.input_size[0] // factor, self.input_size[1] // factor)
        check_pyramid(num_tokens, grid)

        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.levels = nn.ModuleList()
        before = channels
        for level, after in enumerate(widths):
            blocks = nn.Sequential()
            for _ in range(blocks_per_level):
                blocks.append(ResBlock(channels_in=before, channels_out=after))
                before = after
            if level < len(widths) - 1:
                blocks.append(Downsample(channels=after))
            self.levels.append(blocks)
        self.middle = nn.Sequential(*(ResBlock(channels_in=before, channels_out=before) for _ in range(2)))
        self.norm_out = group_norm(before)
        self.conv_out = nn.Conv2d(before, z_channels, 3, padding=1)  # its output is the map that losses may tap

        self.norm_map = nn.LayerNorm(z_channels)
        self.embed = nn.Linear(z_channels, width)
        self.first_queries = nn.Linear(width, width)
        self.map_positions = nn.Parameter(width**-0.5 * torch.randn(grid[0] * grid[1], width))
        self.query_positions = nn.Parameter(width**-0.5 * torch.randn(num_tokens, width))
        self.blocks = nn.ModuleList(
            QFormerBlock(width=width, num_heads=num_heads, qk_norm=qk_norm) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.to_z = nn.Linear(width, z_channels)
        init_linear(self)
        self.project = nn.Linear(z_channels, dim)

    def features(self, images: Tensor) -> Tensor:
        """[B, z_channels, h, w] of the convolutions."""
        x = self.conv_in(images)
        for level in self.levels:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.middle(x))))

    def forward(self, images: Tensor) -> Latents:
        map_BChw = self.features(images)
        memory_BMD = self.embed(self.norm_map(to_tokens(map_BChw)))
        on_grid = memory_BMD.transpose(1, 2).unflatten(2, map_BChw.shape[-2:])
        x_BND = self.first_queries(pyramid(on_grid, self.num_tokens))
        for block in self.blocks:
            x_BND = block(x_BND, memory_BMD, place_ND=self.query_positions, memory_place_MD=self.map_positions)
        return {"main": Stream(self.project(self.to_z(self.norm(x_BND))))}
