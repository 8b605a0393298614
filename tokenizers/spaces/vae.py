"""Latents of a frozen VAE (latent diffusion, Rombach et al., arXiv 2112.10752), which FlexTok and COMiT work in."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ...common.types import Stream
from ...common.weights import State, load
from ...decoders.cnn import CNNDecoder
from ...layers.resnet import to_grid, to_tokens
from ..encoders.cnn import CNNEncoder
from . import autoencoder_kl
from .base import Space

HUB_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")


class VAESpace(Space):
    """x = scale (mean of the posterior - shift); the mean, so that tokens are a function of the image.

    sample: draw from the posterior instead, as FlexTok's published code does: tokens then vary from run to run;
        training: only there, so that finished tokenizers give an image the same tokens always.
    scale, shift: of the latents, so that they are near the unit normal; Stable Diffusion 1's scale is 0.18215.
    pretrained: a hub id or a file in diffusers' format (AutoencoderKL); None: random weights.
    """

    def __init__(
        self,
        *,
        channels: int = 16,
        base_channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 2, 4, 4),
        blocks_per_level: int = 2,
        scale: float = 1.0,
        shift: float = 0.0,
        sample: bool | Literal["training"] = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.scale, self.shift, self.sample = channels, scale, shift, sample
        self.in_training = False  # what this runs in; the networks themselves stay in eval mode
        sizes: dict[str, Any] = {
            "channels": base_channels,
            "channel_multipliers": list(channel_multipliers),
            "blocks_per_level": blocks_per_level,
            "attention_levels": [],
        }
        self.encoder = CNNEncoder(dim=2 * channels, z_channels=2 * channels, **sizes)
        self.decoder = CNNDecoder(dim=channels, z_channels=channels, **sizes)
        hub: dict[str, Any] = {"within": HUB_FILES, "hub_ids": True}
        names: dict[str, Any] = {"setting": "pretrained", "otherwise": "null"}
        self.origin = load(self, pretrained, rename=our_state, exact=True, network="this VAE", **names, **hub)
        super().train(False)

    def train(self, mode: bool = True) -> "VAESpace":
        super().train(mode)
        self.in_training = mode
        return self

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            stream = self.encoder(images.float())["main"]
            mean, log_variance = to_grid(stream.x_BND, stream.grid).chunk(2, dim=1)
            if self.sample is True or (self.sample == "training" and self.in_training):
                mean = mean + (log_variance.clamp(-30, 20) / 2).exp() * torch.randn_like(mean)
            return (mean - self.shift) * self.scale

    def decode(self, x_BChw: Tensor) -> Tensor:
        with torch.autocast(x_BChw.device.type, enabled=False):
            latent = x_BChw.float() / self.scale + self.shift
            return self.decoder({"main": Stream(to_tokens(latent), (latent.shape[2], latent.shape[3]))})

    def size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        grid = self.encoder.stream_shapes(image_size)["main"].grid
        assert grid is not None, "a CNN's codes are a grid"
        return grid


def our_state(state: State) -> State:
    """diffusers' names and shapes to ours."""
    state = {k.removeprefix("vae."): v for k, v in state.items()}
    names = autoencoder_kl.our_names(state)
    return {names.get(k, k): autoencoder_kl.fitted(names.get(k, k), v) for k, v in state.items()}
