"""Decoder of one of several streams: of TokenFlow's and DualToken's pixel codes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..common.build import build
from ..common.types import Latents, height_width
from .base import Decoder
from .heads.base import width_of


class OneStreamDecoder(Decoder):
    """Hands `stream` to a decoder of one stream; the other streams are for heads.

    decoder: its node. image_size: where given, the image is resized to it by bicubic interpolation.
    """

    builds_own_parts = True

    def __init__(
        self,
        *,
        dim: int | Mapping[str, int],
        decoder: Mapping[str, Any],
        stream: str = "pixel",
        image_size: int | Sequence[int] | None = None,
        out_channels: int = 3,
        trusted: bool = True,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.stream, width = width_of(dim, stream)
        self.decoder: Decoder = build(decoder, key="decoder", trusted=trusted, dim=width, out_channels=out_channels)
        self.needs_grid, self.any_length = self.decoder.needs_grid, self.decoder.any_length
        self.image_size = None if image_size is None else height_width(image_size)

    def forward(self, codes: Latents) -> Tensor:
        picture = self.decoder({"main": codes[self.stream]})
        if self.image_size is None or tuple(picture.shape[-2:]) == self.image_size:
            return picture
        return F.interpolate(picture, self.image_size, mode="bicubic")

    @property
    def last_layer(self) -> Tensor | None:
        return self.decoder.last_layer
