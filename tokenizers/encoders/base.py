"""Base classes of encoders."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ...common.types import Grid, Latents, StreamShape, height_width


class Encoder(nn.Module, ABC):
    """Images [B, 3, H, W] in [-1, 1] to Latents."""

    dim: int | dict[str, int]  # width of the stream `main`, or of each stream

    @abstractmethod
    def forward(self, images: Tensor) -> Latents: ...

    @abstractmethod
    def stream_shapes(self, image_size: tuple[int, int]) -> dict[str, StreamShape]:
        """Tokens of each stream at this image size; ValueError if the size cannot work."""


class FixedSizeEncoder(Encoder):
    """Images of one size, whose positions are learned or stored, to `num_tokens` vectors."""

    dim: int
    input_size: tuple[int, int]
    num_tokens: int
    latent_grid: Grid | None = None

    def stream_shapes(self, image_size: tuple[int, int]) -> dict[str, StreamShape]:
        if height_width(image_size) != self.input_size:
            raise ValueError(f"this encoder's positions are those of inputs of {list(self.input_size)}")
        return {"main": StreamShape(self.num_tokens, self.latent_grid)}


def width_of(encoder: Encoder, key: str) -> int:
    """Width of the single stream of `encoder`."""
    if not isinstance(encoder.dim, int):
        raise ValueError(f"{key}: gives streams of its own ({', '.join(encoder.dim)}); one is needed")
    return encoder.dim
