"""A decoder of one stream that reads several, laid over each other on one grid (DualViTok, TokenFlow)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.build import build
from ..common.types import Latents, Stream
from ..layers.resnet import to_grid, to_tokens
from .base import Decoder


class MergedDecoder(Decoder):
    """decoder: the node of a decoder that reads `main`; its `main` is all streams' channels side by side.

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
        self.decoder = build(decoder, key="tokenizer.decoder.decoder", trusted=trusted, **given)
        self.cheap_sample, self.draws_noise = self.decoder.cheap_sample, self.decoder.draws_noise
        self.loss_names = self.decoder.loss_names

    def forward(self, codes: Latents, **given: Any) -> Tensor:
        return self.decoder({"main": self.merged(codes)}, **given)

    def merged(self, codes: Latents) -> Stream:
        grid = codes[self.grid_of].grid
        assert grid is not None, "streams without a grid cannot be laid over each other"
        laid = []
        for name in self.streams:
            x_BChw = to_grid(codes[name].x_BND, codes[name].grid)
            if codes[name].grid != grid:
                x_BChw = F.interpolate(x_BChw, size=grid, mode="bilinear")
            laid.append(to_tokens(x_BChw))
        return Stream(torch.cat(laid, dim=2), grid)

    @property
    def last_layer(self) -> nn.Parameter | None:
        return self.decoder.last_layer

    def training_losses(self, codes: Latents, images: Tensor, **given: Any) -> dict[str, Tensor]:
        return self.decoder.training_losses({"main": self.merged(codes)}, images, **given)
