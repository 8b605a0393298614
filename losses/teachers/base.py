"""Base class of teachers: frozen networks from images in [-1, 1] to features, run once per batch."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.types import Grid, height_width
from ...common.weights import Weights


@dataclass
class TeacherFeatures:
    """Prefix tokens (class, registers) are never among the tokens."""

    tokens_BND: Tensor
    grid: Grid
    pooled_BD: Tensor


class SemanticTeacher(nn.Module, ABC):
    """Resizes and normalises by itself; several terms that show it the same batch share one pass.

    weights: "pretrained", "random" (seeded; numbers made with it are marked) or PATH of a state dict.
    image_size: side the network sees; interpolation: bicubic or bilinear, antialiased.
    made_by: the command that writes the file of `weights`, for the error where that file is missing.
    """

    published_weights: ClassVar[bool] = True
    tokens_dim: int
    pooled_dim: int
    origin: Weights
    mean: Tensor
    deviation: Tensor

    def __init__(self, *, interpolation: Literal["bicubic", "bilinear"]) -> None:
        super().__init__()
        self.interpolation = interpolation
        self._last: tuple[weakref.ref[Tensor], TeacherFeatures] | None = None

    def _finish(self, *, image_size: int | Sequence[int], mean: Sequence[float], deviation: Sequence[float]) -> None:
        """Called by subclasses at the end of their constructor."""
        self.image_size = height_width(image_size if isinstance(image_size, int) else image_size[-2:])
        self.register_buffer("mean", torch.tensor(list(mean))[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(list(deviation))[:, None, None], persistent=False)
        self.weights_are_random = self.origin.random
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> TeacherFeatures:
        if self._last is not None and self._last[0]() is images:
            return self._last[1]
        with torch.no_grad():
            features = self.features(self.prepared(images))
        self._last = weakref.ref(images), features
        return features

    @abstractmethod
    def features(self, prepared: Tensor) -> TeacherFeatures: ...

    def prepared(self, images: Tensor) -> Tensor:
        """[-1, 1] to the network's own size and statistics."""
        x = (images + 1) / 2
        if tuple(x.shape[-2:]) != self.image_size:
            x = F.interpolate(x, size=self.image_size, mode=self.interpolation, antialias=True)
        return (x - self.mean) / self.deviation
