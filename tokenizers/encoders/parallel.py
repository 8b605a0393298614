"""One encoder per stream, each with its own tower: dual tokenizers of a semantic and a pixel encoder (DualViTok)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...common.build import build
from ...common.modules import ModuleDict
from ...common.types import Latents, StreamShape
from .base import Encoder, width_of


class ParallelEncoder(Encoder):
    """`encoders: {semantic: NODE, pixel: NODE}`; what each calls `main` becomes the stream of its name."""

    builds_own_parts = True

    def __init__(
        self, *, encoders: Mapping[str, Mapping[str, Any]], in_channels: int = 3, trusted: bool = True
    ) -> None:
        super().__init__()
        encoders = {stream: node for stream, node in encoders.items() if node is not None}
        if not encoders:
            raise ValueError("encoders: none are named; {semantic: NODE, pixel: NODE}")
        given = {} if in_channels == 3 else {"in_channels": in_channels}
        self.encoders: ModuleDict[Encoder] = ModuleDict(
            {
                stream: build(node, key=f"tokenizer.encoder.encoders.{stream}", trusted=trusted, **given)
                for stream, node in encoders.items()
            }
        )
        self.dim = {stream: width_of(encoder, f"encoders.{stream}") for stream, encoder in self.encoders.items()}

    def forward(self, images: Tensor) -> Latents:
        return {stream: encoder(images)["main"] for stream, encoder in self.encoders.items()}

    def stream_shapes(self, image_size: tuple[int, int]) -> dict[str, StreamShape]:
        return {stream: encoder.stream_shapes(image_size)["main"] for stream, encoder in self.encoders.items()}
