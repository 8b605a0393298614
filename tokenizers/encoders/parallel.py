"""One encoder a stream, each with its own tower: dual tokenizers of a semantic and a pixel encoder (DualViTok)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ...common.build import build
from ...common.types import Latents, StreamShape
from .base import Encoder


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
        self.encoders = nn.ModuleDict(
            {
                stream: build(node, key=f"tokenizer.encoder.encoders.{stream}", trusted=trusted, **given)
                for stream, node in encoders.items()
            }
        )
        for stream, encoder in self.encoders.items():
            if not isinstance(encoder.dim, int):
                raise ValueError(
                    f"encoders.{stream}: gives streams of its own ({', '.join(encoder.dim)}); one is needed"
                )
        self.dim = {stream: encoder.dim for stream, encoder in self.encoders.items()}

    def forward(self, images: Tensor) -> Latents:
        return {stream: encoder(images)["main"] for stream, encoder in self.encoders.items()}

    def stream_shapes(self, image_size: tuple[int, int]) -> dict[str, StreamShape]:
        return {stream: encoder.stream_shapes(image_size)["main"] for stream, encoder in self.encoders.items()}
