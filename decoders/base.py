"""Base class of decoders."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..common.types import Latents


class Decoder(nn.Module, ABC):
    """Codes to an image [B, 3, H, W] around [-1, 1], not clamped."""

    dim: int | Mapping[str, int]  # width it reads, given by quantizer.out_dim
    loss_names: tuple[str, ...] = ()  # keys of what training_losses returns
    cheap_sample: bool = True  # False where an image takes many steps: training then decodes none
    needs_grid: bool = False  # True where codes without a grid cannot be decoded
    any_length: bool = False  # True where tokens that are masked and tokens that are cut off give the same image
    draws_noise: bool = False  # True where `forward` takes `generator`, to override noise that follows from the codes
    last_layer_name: str | None = None  # of the parameter that `last_layer` gives

    @abstractmethod
    def forward(self, codes: Latents) -> Tensor:
        """Decoders that read captions take `conditions` too, those that draw noise `generator`."""

    @property
    def last_layer(self) -> Tensor | None:
        """The weight whose gradients the adaptive GAN weight compares; None where there is no such layer."""
        return None if self.last_layer_name is None else self.get_parameter(self.last_layer_name)

    def adapted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a narrower decoder, padded to fit: where a second training stage widens the first one's."""
        return dict(state)

    def facts(self) -> dict[str, Any]:
        """What reports should say about how images are sampled: sampler, steps, seed."""
        return {}

    def training_losses(self, codes: Latents, images: Tensor, conditions: Tensor | None = None) -> dict[str, Tensor]:
        """Losses of decoders that train without a cheap sample; raw, named. `images`: what the encoder saw.

        It is also where such a decoder runs the modules that loss terms tap.
        """
        return {}
