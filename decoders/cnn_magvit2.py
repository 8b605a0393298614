"""The convolutional grid decoder of Open-MAGVIT2 and WeTok ("B2"), with or without added noise."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.types import Latents
from ..layers.magvit2 import AdaptiveGroupNorm, DepthToSpaceUpsample, plain_blocks
from ..layers.resnet import group_norm, level_widths
from .base import Decoder
from .noise import noise_of_codes


class CNNMagvit2Decoder(Decoder):
    """Mirror of CNNMagvit2Encoder; every level begins with a group norm conditioned on the codes' statistics.

    Levels are numbered like the encoder's (0 is the full resolution), and run from the last to the first.
    noise: WeTok's generative decoding (arXiv 2508.05599): standard normal noise is concatenated to the codes. Fresh in
        training; in eval a pure function of `noise_seed` and the image's codes, or of a given generator.
    """

    needs_grid = True

    def __init__(
        self,
        *,
        dim: int = 18,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks_per_level: int = 4,
        out_channels: int = 3,
        noise: bool = False,
        noise_seed: int = 0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.draws_noise = noise
        self.noise_seed = noise_seed
        widths = level_widths(channels, channel_multipliers)

        width = widths[-1]
        self.conv_in = nn.Conv2d(2 * dim if noise else dim, width, 3, padding=1)
        self.middle = nn.Sequential(*plain_blocks(blocks_per_level, width, width))
        self.norms = nn.ModuleList()
        self.levels = nn.ModuleList()
        for level in reversed(range(len(widths))):
            self.norms.append(AdaptiveGroupNorm(channels=width, style_channels=dim))
            blocks = nn.Sequential(*plain_blocks(blocks_per_level, width, widths[level]))
            width = widths[level]
            if level > 0:
                blocks.append(DepthToSpaceUpsample(channels=width))
            self.levels.append(blocks)
        self.norm_out = group_norm(width)
        self.conv_out = nn.Conv2d(width, out_channels, 3, padding=1)

    def forward(
        self, codes: Latents, *, noise_BND: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        stream = codes["main"]
        x = style = stream.as_grid()
        if self.draws_noise:
            noise_BND = noise_BND if noise_BND is not None else self._noise(stream.x_BND, generator)
            x = torch.cat([x, replace(stream, x_BND=noise_BND).as_grid()], dim=1)
        x = self.middle(self.conv_in(x))
        for norm, level in zip(self.norms, self.levels, strict=True):
            x = level(norm(x, style))
        return self.conv_out(F.silu(self.norm_out(x)))

    @property
    def last_layer(self) -> Tensor:
        return self.conv_out.weight

    def _noise(self, codes_BND: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is not None:
            return torch.randn(codes_BND.shape, generator=generator, device=generator.device).to(codes_BND)
        return torch.randn_like(codes_BND) if self.training else noise_of_codes(codes_BND, seed=self.noise_seed)

    def adapted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the decoder without noise, padded to fit one with it: at first the noise has no effect.

        How WeTok's second stage starts from its first.
        """
        weight = state["conv_in.weight"]
        missing = self.conv_in.in_channels - weight.shape[1]
        return dict(state) if missing <= 0 else {**state, "conv_in.weight": F.pad(weight, (0, 0, 0, 0, 0, missing))}
