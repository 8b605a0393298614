"""Base class of spaces: a frozen, invertible map around encoder and decoder, such as a VAE."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Space(nn.Module, ABC):
    """Images [B, 3, H, W] in [-1, 1] to x [B, C, h, w] and back."""

    channels: int  # C: the encoder's in_channels, the decoder's out_channels

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor: ...

    @abstractmethod
    def decode(self, x_BChw: Tensor) -> Tensor:
        """Unclamped; gradients pass, so that losses on pixels can train what made x."""

    @abstractmethod
    def size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) for images of this size; ValueError if the size cannot work."""

    def train(self, mode: bool = True) -> "Space":
        """Always in eval mode: dropout or batch statistics would change the space while the model trains."""
        return super().train(False)
