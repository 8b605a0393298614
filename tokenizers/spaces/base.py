"""What a space promises: a frozen change of coordinates around encoder and decoder, saved once with the tokenizer."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Space(nn.Module, ABC):
    """Pictures [B, 3, H, W] in [-1, 1] to x [B, C, h, w] and back."""

    channels: int  # C: the encoder's in_channels, the decoder's out_channels

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor: ...

    @abstractmethod
    def decode(self, x_BChw: Tensor) -> Tensor:
        """Unclamped; gradients pass, so that losses on pixels can train what made x."""

    @abstractmethod
    def size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(h, w) for pictures of this size; ValueError if the size cannot work."""

    def train(self, mode: bool = True) -> "Space":
        """Always in eval mode: dropout or batch statistics would move the space under the model's feet."""
        return super().train(False)
