"""Base class of towers: the vision transformers of foundation models."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ...common.pixels import CLIP_DEVIATION, CLIP_MEAN, IMAGENET_DEVIATION, IMAGENET_MEAN
from ...common.types import Grid

STATISTICS = {  # mean and deviation that the weights were trained with, of images in [0, 1]
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": (CLIP_MEAN, CLIP_DEVIATION),
    "imagenet": (IMAGENET_MEAN, IMAGENET_DEVIATION),
}


class Tower(nn.Module, ABC):
    """Images [B, 3, H, W] in [-1, 1] to patch tokens [B, N, width], without class token."""

    width: int

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor: ...

    @abstractmethod
    def grid(self, image_size: tuple[int, int]) -> Grid:
        """Of the tokens; ValueError if the size cannot work."""


class Standardize(nn.Module):
    """Images in [-1, 1] normalised as the tower was trained. name: half | clip | imagenet | none."""

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in (*STATISTICS, "none"):
            raise ValueError(f"statistics={name}: known: {', '.join(STATISTICS)}, none")
        self.changes = name not in ("none", "half")  # (x + 1) / 2 less a half, over a half, is x
        mean, deviation = (torch.tensor(v)[:, None, None] for v in STATISTICS.get(name, STATISTICS["half"]))
        self.scale = nn.Buffer(0.5 / deviation, persistent=False)
        self.shift = nn.Buffer((0.5 - mean) / deviation, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale + self.shift if self.changes else images
