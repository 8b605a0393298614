"""The 70x70 PatchGAN of pix2pix (arXiv:1611.07004) as VQGAN uses it: one logit per patch."""

import re
from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from ...common.errors import UserError
from .actnorm import ActNorm

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "act": ActNorm,
    "group": lambda width: nn.GroupNorm(min(32, width), width),
    "none": lambda width: nn.Identity(),
}


class PatchGAN(nn.Module):
    """Images [B, C, H, W] to logits [B, 1, h, w].

    norm: "batch" (as published; needs a batch of real size), "act" (statistics of the first batch), "group" or "none".
    """

    def __init__(self, *, in_channels: int = 3, ndf: int = 64, n_layers: int = 3, norm: str = "batch") -> None:
        super().__init__()
        if norm not in NORMS:
            raise ValueError(f"norm={norm}: give one of {', '.join(NORMS)}")
        if n_layers < 1:
            raise ValueError(f"n_layers={n_layers}: give 1 or more")
        self.n_layers = n_layers
        self.stem = nn.Conv2d(in_channels, ndf, 4, stride=2, padding=1)
        self.blocks = nn.Sequential()
        width = ndf
        for level in range(1, n_layers + 1):
            wider = ndf * min(2**level, 8)
            stride = 2 if level < n_layers else 1
            self.blocks.append(Block(width=width, wider=wider, stride=stride, norm=norm))
            width = wider
        self.head = nn.Conv2d(width, 1, 4, padding=1)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(F.leaky_relu(self.stem(images), 0.2)))

    @property
    def smallest_image(self) -> int:
        """Side below which no patch is left: the last block and the head take one position each, the others halve."""
        return 3 * 2**self.n_layers


class Block(nn.Module):
    def __init__(self, *, width: int, wider: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=norm != "batch")
        self.norm = NORMS[norm](wider)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x)), 0.2)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def from_taming_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`main.N.NAME` of taming-transformers and its many copies (under any prefix) to the names of PatchGAN.

    There N counts one flat list: 0 the stem, then conv, norm, activation a block, last the head.
    """
    found: dict[tuple[int, str], Tensor] = {}
    for key, value in state.items():
        match = re.fullmatch(r"(?:.*\.)?main\.(\d+)\.(\w+)", key)
        if match is None:
            raise UserError(f"{key} is no key of a PatchGAN (main.N.NAME); give its discriminator's weights only")
        found[int(match[1]), match[2]] = value
    last = max(number for number, _ in found)
    return {f"{_our_place(number, last)}.{name}": value for (number, name), value in found.items()}


def _our_place(number: int, last: int) -> str:
    if number == 0:
        return "stem"
    if number == last:
        return "head"
    block, part = divmod(number - 2, 3)
    return f"blocks.{block}.{('conv', 'norm')[part]}"
