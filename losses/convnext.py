"""The perceptual loss of TiTok's second stage (1d-tokenizer): squared error of a frozen ConvNeXt-S's class logits."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.frozen import Frozen
from ..common.pixels import IMAGENET_DEVIATION, IMAGENET_MEAN
from ..common.precision import autocast_of
from ..common.weights import load, torchvision_file
from .base import ReconstructionTerm

FILES = {  # torchvision's IMAGENET1K_V1
    "small": "convnext_small-0c510722.pth",
    "tiny": "convnext_tiny-983f1562.pth",
    "base": "convnext_base-6075fbad.pth",
}


class ConvNeXtNet(nn.Module):
    """Images and targets in [-1, 1] to the mean squared difference of their 1000 logits, [B]."""

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, *, size: Literal["small", "tiny", "base"] = "small", side: int = 224, weights: str = "pretrained"
    ) -> None:
        super().__init__()
        from torchvision.models import convnext

        if side < 32:
            raise ValueError(f"side={side}: the network shrinks by 32; the published loss has 224")
        self.side = side
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = getattr(convnext, f"convnext_{size}")()
        published, network = torchvision_file(FILES[size]), f"torchvision's convnext_{size}"
        self.origin = load(self.network, weights, published=published, network=network)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None])
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION)[:, None, None])
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._logits(target)
        return (self._logits(images).float() - wanted.float()).square().mean(dim=1)

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            x = (images.float() + 1) / 2
            x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", align_corners=False, antialias=True)
            x = (x - self.mean) / self.deviation
        return self.network(x.contiguous(memory_format=torch.channels_last))


class ConvNeXt(ReconstructionTerm):
    """Mean of that distance over reconstructions and images.

    size: small as published. side: to which both images are resized first.
    weights: pretrained (torchvision's file in TORCH_HOME, else fetched), PATH, or random.
    precision: of the network, auto (trainer.precision) | fp32.
    """

    def __init__(
        self,
        *,
        size: Literal["small", "tiny", "base"] = "small",
        side: int = 224,
        weights: str = "pretrained",
        precision: Literal["auto", "fp32"] = "auto",
    ) -> None:
        super().__init__()
        self.net = Frozen(ConvNeXtNet(size=size, side=side, weights=weights))
        self.precision = precision

    def distance(self, images: Tensor, target: Tensor) -> Tensor:
        with autocast_of(self.precision, images.device):
            return self.net(images, target)
