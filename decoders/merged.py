"""Decoder of several streams, concatenated on one grid (DualViTok, TokenFlow)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.build import build
from ..common.types import Latents, Stream
from ..layers.resnet import to_tokens
from .base import Decoder


class MergedDecoder(Decoder):
    """decoder: the node of a decoder that reads `main`; its `main` holds all streams' channels.

    grid_of: the stream whose grid counts; the others are resampled to it, bilinearly. null: the last stream's.
    """

    builds_own_parts = True
    needs_grid = True

    def __init__(
        self,
        *,
        dim: int | Mapping[str, int],
        decoder: Mapping[str, Any],
        grid_of: str | None = None,
        out_channels: int = 3,
        trusted: bool = True,
    ) -> None:
        super().__init__()
        widths = {"main": dim} if isinstance(dim, int) else dict(dim)
        if grid_of is not None and grid_of not in widths:
            raise ValueError(f"grid_of={grid_of}: the codes have {', '.join(widths)}")
        self.dim, self.grid_of = dim if isinstance(dim, int) else widths, grid_of or list(widths)[-1]
        self.streams = tuple(widths)
        given = {"dim": sum(widths.values())} | ({} if out_channels == 3 else {"out_channels": out_channels})
        self.decoder: Decoder = build(decoder, key="decoder", trusted=trusted, **given)
        self.cheap_sample, self.draws_noise = self.decoder.cheap_sample, self.decoder.draws_noise
        self.loss_names = self.decoder.loss_names

    def forward(self, codes: Latents, **given: Any) -> Tensor:
        return self.decoder({"main": self.merged(codes)}, **given)

    def merged(self, codes: Latents) -> Stream:
        grid = codes[self.grid_of].grid
        assert grid is not None, "the decoder needs codes on a grid"
        parts = [codes[name].as_grid() for name in self.streams]
        parts = [p if p.shape[-2:] == grid else F.interpolate(p, size=grid, mode="bilinear") for p in parts]
        return Stream(torch.cat([to_tokens(part) for part in parts], dim=2), grid)

    @property
    def last_layer(self) -> Tensor | None:
        return self.decoder.last_layer

    def training_losses(self, codes: Latents, images: Tensor, conditions: Tensor | None = None) -> dict[str, Tensor]:
        return self.decoder.training_losses({"main": self.merged(codes)}, images, conditions)
