"""The perceptual loss of TiTok's second stage (1d-tokenizer): squared error of a frozen ConvNeXt-S's class logits."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.errors import MissingWeights, UserError
from ..common.types import TokenizerOutput
from ..common.weights import read_state_dict, torch_hub_file
from .base import LossTerm

SETTING = "loss.convnext.term"
FILES = {  # torchvision's IMAGENET1K_V1
    "small": "convnext_small-0c510722.pth",
    "tiny": "convnext_tiny-983f1562.pth",
    "base": "convnext_base-6075fbad.pth",
}
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ConvNeXtNet(nn.Module):
    """Images and targets in [-1, 1] to the mean squared difference of their 1000 logits, [B]."""

    def __init__(self, *, size: str = "small", side: int = 224, weights: str = "pretrained") -> None:
        super().__init__()
        from torchvision.models import convnext

        if size not in FILES:
            raise UserError(f"{SETTING}.size={size}: one of {', '.join(FILES)}; the published loss has small")
        if side < 32:
            raise UserError(f"{SETTING}.side={side}: the network shrinks by 32; the published loss has 224")
        self.side = side
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = getattr(convnext, f"convnext_{size}")()
        if weights != "random":
            self._load(weights, size)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None])
        self.register_buffer("deviation", torch.tensor(IMAGENET_DEVIATION)[:, None, None])
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._logits(target)
        return (self._logits(images).float() - wanted.float()).square().mean(dim=1)

    def train(self, mode: bool = True) -> "ConvNeXtNet":
        return super().train(False)

    def _logits(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            x = (images.float() + 1) / 2
            x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", align_corners=False, antialias=True)
            x = (x - self.mean) / self.deviation
        return self.network(x.contiguous(memory_format=torch.channels_last))

    def _load(self, weights: str, size: str) -> None:
        if weights == "pretrained":
            try:
                weights = str(torch_hub_file(f"https://download.pytorch.org/models/{FILES[size]}"))
            except MissingWeights as error:
                raise MissingWeights(
                    f"{SETTING}.weights=pretrained: {error}; use {SETTING}.weights=PATH or {SETTING}.weights=random"
                ) from error
        state, wanted = read_state_dict(weights, key=f"{SETTING}.weights"), self.network.state_dict()
        wrong = [k for k in wanted if k not in state or state[k].shape != wanted[k].shape]
        if wrong:
            raise UserError(
                f"{SETTING}.weights={weights}: not torchvision's convnext_{size} ({wrong[0]} missing or misshapen)"
            )
        self.network.load_state_dict({k: state[k] for k in wanted})


class ConvNeXt(LossTerm):
    """The network is hidden from the module tree: no checkpoint or export finds it, but it moves with `.to`.

    size: small as published. side: to which both pictures are resized first.
    weights: pretrained (torchvision's file in TORCH_HOME, else fetched), PATH, or random.
    """

    needs_reconstruction: ClassVar[bool] = True

    def __init__(self, *, size: str = "small", side: int = 224, weights: str = "pretrained") -> None:
        super().__init__()
        self.weights_are_random = weights == "random"
        self.__dict__["net"] = ConvNeXtNet(size=size, side=side, weights=weights)

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        return self.net(output.reconstruction, batch["image"]).mean()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "ConvNeXt":
        self.net._apply(fn)
        return super()._apply(fn, recurse)
