"""The latents of a frozen VAE (latent diffusion, Rombach et al., arXiv 2112.10752): FlexTok's and COMiT's space."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ...common.errors import MissingWeights, UserError
from ...common.types import Stream
from ...decoders.cnn import CNNDecoder
from ...layers.resnet import to_grid, to_tokens
from ..encoders.cnn import CNNEncoder
from . import autoencoder_kl
from .base import Space

HUB_FILES = ("diffusion_pytorch_model.safetensors", "model.safetensors")


class VAESpace(Space):
    """x = scale (mean of the posterior - shift); the mean, so that tokens are a function of the picture.

    sample: draw from the posterior instead, as FlexTok's published code does: tokens then vary from run to run.
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
        sample: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.channels, self.scale, self.shift, self.sample = channels, scale, shift, sample
        sizes = {
            "channels": base_channels,
            "channel_multipliers": list(channel_multipliers),
            "blocks_per_level": blocks_per_level,
            "attention_levels": [],
        }
        self.encoder = CNNEncoder(dim=2 * channels, z_channels=2 * channels, **sizes)
        self.decoder = CNNDecoder(dim=channels, z_channels=channels, **sizes)
        if pretrained is not None and not _only_measured(self):
            self._load(pretrained)
        super().train(False)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            stream = self.encoder(images.float())["main"]
            mean, log_variance = to_grid(stream.x_BND, stream.grid).chunk(2, dim=1)
            if self.sample:
                mean = mean + (log_variance.clamp(-30, 20) / 2).exp() * torch.randn_like(mean)
            return (mean - self.shift) * self.scale

    def decode(self, x_BChw: Tensor) -> Tensor:
        with torch.autocast(x_BChw.device.type, enabled=False):
            latent = x_BChw.float() / self.scale + self.shift
            return self.decoder({"main": Stream(to_tokens(latent), (latent.shape[2], latent.shape[3]))})

    def size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        return self.encoder.stream_shapes(image_size)["main"].grid

    def _load(self, source: str) -> None:
        from ...common.weights import read_state_dict
        from ..hub import check_state

        state = read_state_dict(_file_of(source), key="tokenizer.space.pretrained")
        state = {k.removeprefix("vae."): v for k, v in state.items()}
        names = autoencoder_kl.our_names(state)
        ours = {names.get(k, k): autoencoder_kl.fitted(names.get(k, k), v) for k, v in state.items()}
        check_state(self.state_dict(), ours, source=f"tokenizer.space.pretrained={source}")
        self.load_state_dict(ours)


def _only_measured(module: torch.nn.Module) -> bool:
    return any(isinstance(p, FakeTensor) or p.is_meta for p in module.parameters())


def _file_of(source: str) -> str:
    path = Path(source).expanduser()
    if path.is_file():
        return str(path)
    for name in HUB_FILES:
        if (path / name).is_file():
            return str(path / name)
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"tokenizer.space.pretrained={source}: no such file or folder (and no hub id, owner/name)")
    from huggingface_hub import hf_hub_download

    failure: Exception | None = None
    for name in HUB_FILES:
        try:
            return hf_hub_download(source, name, etag_timeout=5)
        except Exception as error:  # the hub client raises a dozen unrelated types
            failure = error
    raise MissingWeights(
        f"tokenizer.space.pretrained={source}: the hub gave no weights ({type(failure).__name__}); give a file, or "
        "null for random ones"
    ) from failure
