"""What an encoder promises."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ...common.types import Latents, StreamShape


class Encoder(nn.Module, ABC):
    """Images [B, 3, H, W] in [-1, 1] to Latents."""

    dim: int | dict[str, int]  # width of the stream `main`, or of each stream

    @abstractmethod
    def forward(self, images: Tensor) -> Latents: ...

    @abstractmethod
    def stream_shapes(self, image_size: tuple[int, int]) -> dict[str, StreamShape]:
        """Tokens a stream at this image size; ValueError if the size cannot work."""
