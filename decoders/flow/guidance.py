"""Guidance: amplifies the difference that the codes make to the velocity."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

Guide = Callable[[Tensor, Tensor], Tensor]  # (velocity with codes, velocity without) -> velocity to walk


class Guidance(nn.Module, ABC):
    scale: float  # 1 is no guidance

    @abstractmethod
    def start(self) -> Guide:
        """A guide for one image."""


class ClassifierFreeGuidance(Guidance):
    """Ho and Salimans, arXiv 2207.12598: v = v0 + scale (v1 - v0)."""

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def start(self) -> Guide:
        return lambda with_codes, without: without + self.scale * (with_codes - without)

    def __str__(self) -> str:
        return f"classifier-free, scale {self.scale:g}"


class AdaptiveProjectedGuidance(Guidance):
    """Sadat et al., arXiv 2410.02416: of the difference only what is orthogonal to the prediction counts in full.

    momentum: share of the previous differences that is added (negative: it is subtracted). threshold: largest
    difference of an image, as an L2 norm. parallel: share of the difference along the prediction that is kept.
    """

    def __init__(
        self, *, scale: float = 7.5, momentum: float = -0.5, threshold: float = 2.5, parallel: float = 0.0
    ) -> None:
        super().__init__()
        if threshold <= 0:
            raise ValueError(f"threshold={threshold}: a length above 0")
        self.scale, self.momentum, self.threshold, self.parallel = scale, momentum, threshold, parallel

    def start(self) -> Guide:
        """A guide for one walk: it remembers the differences of earlier steps (algorithm 1 of the paper)."""
        running: Tensor | float = 0.0

        def guide(with_codes: Tensor, without: Tensor) -> Tensor:
            nonlocal running
            running = with_codes - without + self.momentum * running
            length = running.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            difference = (running * (self.threshold / length.clamp(min=1e-12)).clamp(max=1.0)).double()
            direction = F.normalize(with_codes.double().flatten(1), dim=1).view_as(with_codes)
            along = (difference * direction).sum(dim=(1, 2, 3), keepdim=True) * direction
            update = difference - along + self.parallel * along
            return with_codes + (self.scale - 1) * update.to(with_codes.dtype)

        return guide

    def __str__(self) -> str:
        return f"adaptive projected, scale {self.scale:g}"
