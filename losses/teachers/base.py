"""What a teacher promises: images in [-1, 1] to features, frozen, computed once a batch."""

import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.errors import UserError
from ...common.types import Grid
from ...common.weights import first_misfit, read_state_dict


class NoWeights(Exception):
    """Weights that are neither here nor to be had; NamedTeachers tells it with the teacher's name."""


@dataclass
class TeacherFeatures:
    """Prefix tokens (class, registers) are never among the tokens."""

    tokens_BND: Tensor
    grid: Grid
    pooled_BD: Tensor


class SemanticTeacher(nn.Module, ABC):
    """Resizes and normalises by itself; several terms that show it the same batch share one pass.

    weights: "pretrained", "random" (seeded; numbers made with it are stamped) or PATH of a state dict.
    image_size: side the network sees; interpolation: bicubic or bilinear, antialiased.
    made_by: the command that writes the file of `weights`, told where that file is missing.
    """

    published_weights: ClassVar[bool] = True
    tokens_dim: int
    pooled_dim: int

    def __init__(self, *, weights: str, interpolation: str, made_by: str | None) -> None:
        super().__init__()
        if interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"interpolation={interpolation}: give bicubic or bilinear")
        if weights not in ("pretrained", "random") and not Path(weights).expanduser().is_file():
            remedy = f"make it with: {made_by}" if made_by else "give pretrained, random, or the path of a state dict"
            raise NoWeights(f"weights={weights}: no such file; {remedy}")
        self.weights, self.interpolation = weights, interpolation
        self._seen: weakref.ref | None = None
        self._features: TeacherFeatures | None = None

    def _finish(self, *, image_size: int | Sequence[int], mean: Sequence[float], deviation: Sequence[float]) -> None:
        """Called by subclasses when their network stands."""
        self.image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)[-2:]
        self.register_buffer("mean", torch.tensor(list(mean))[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(list(deviation))[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    @property
    def weights_are_random(self) -> bool:
        return self.weights == "random"

    def forward(self, images: Tensor) -> TeacherFeatures:
        if self._seen is None or self._seen() is not images:
            with torch.no_grad():
                self._features = self.features(self.prepared(images))
            self._seen = weakref.ref(images)
        return self._features

    @abstractmethod
    def features(self, prepared: Tensor) -> TeacherFeatures: ...

    def prepared(self, images: Tensor) -> Tensor:
        """[-1, 1] to the network's own size and statistics."""
        x = (images + 1) / 2
        if tuple(x.shape[-2:]) != self.image_size:
            x = F.interpolate(x, size=self.image_size, mode=self.interpolation, antialias=True)
        return (x - self.mean) / self.deviation

    def train(self, mode: bool = True) -> "SemanticTeacher":
        return super().train(False)


def load_state(network: nn.Module, weights: str, *, prefixes: Sequence[str] = ("",)) -> None:
    """Fill `network` from a file; of `prefixes`, the first under which the file has every tensor counts."""
    try:
        state = read_state_dict(weights, key="weights")
    except UserError as error:  # as a ValueError it gets the key of the teacher's YAML node in front
        raise ValueError(str(error)) from error
    own = network.state_dict()
    for prefix in prefixes:
        if first_misfit(own, state, prefix=prefix) is None:
            network.load_state_dict({k: state[prefix + k] for k in own})
            return
    wrong = first_misfit(own, state, prefix=prefixes[0])
    raise ValueError(f"weights={weights}: another network's ({wrong} missing or misshapen); match model and its sizes")
