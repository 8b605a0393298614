"""What a decoder promises."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from ..common.types import Latents


class Decoder(nn.Module, ABC):
    """Codes to a picture [B, 3, H, W] around [-1, 1], not clamped."""

    dim: int | dict[str, int]  # width it reads, given by quantizer.out_dim
    loss_names: ClassVar[tuple[str, ...]] = ()  # keys of what training_losses returns
    cheap_sample: ClassVar[bool] = True  # False where a picture takes many steps: training then sees none
    needs_grid: bool = False  # True where codes without a grid cannot be painted
    any_length: bool = False  # True where tokens that are masked and tokens that are cut off make the same picture
    draws_noise: bool = False  # True where `forward` takes `generator`, to override noise that follows from the codes

    @abstractmethod
    def forward(self, codes: Latents) -> Tensor:
        """Decoders that read captions take `conditions` too, those that draw noise `generator`."""

    @property
    def last_layer(self) -> nn.Parameter | None:
        """The weight whose gradients the adaptive GAN weight compares; None where there is no such layer."""
        return None

    def adapted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A sister's weights, made to fit: where a second training stage widens what the first one trained."""
        return dict(state)

    def facts(self) -> dict[str, Any]:
        """What reports should say about how pictures are drawn: sampler, steps, seed."""
        return {}

    def training_losses(self, codes: Latents, images: Tensor, conditions: Tensor | None = None) -> dict[str, Tensor]:
        """Losses of decoders that train without a cheap sample; raw, named. `images`: what the encoder saw.

        It is also where such a decoder runs the modules that loss terms tap.
        """
        return {}
