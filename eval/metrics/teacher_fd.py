"""Frechet distance in a named teacher's pooled features: DINOv2, CLIP, SigLIP, any YAML of configs/teacher."""

from typing import Any

from omegaconf import OmegaConf
from torch import Tensor, nn

from ...common.build import build
from ...common.pixels import to_model_range
from .base import Quantity
from .frechet import FrechetDistance
from .networks import Network
from .registry import yaml_of


class TeacherFeatures(nn.Module):
    """Images to the teacher's pooled vector, as an extractor gives features."""

    classes = None
    sha256 = None
    wants_floats = False

    def __init__(self, *, teacher: str, weights: str, image_size: int, small: bool) -> None:
        super().__init__()
        key = "protocol.settings.teacher_fd.teacher"
        node = yaml_of("teacher", teacher, key=key)[teacher]
        node = node | (node.get("tiny", {}) if small else {})
        around = OmegaConf.create({"weights": weights, "data": {"image_size": image_size}, "node": node})
        resolved: Any = OmegaConf.to_container(around.node, resolve=True)
        self.network = build(resolved, key=key)
        self.width = self.network.pooled_dim
        self.origin, self.weights_are_random = self.network.origin, self.network.weights_are_random
        self.label = teacher + (f"[{self.origin.label}]" if self.origin.label else "")
        self.source = str(self.origin.source)

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        return self.network(to_model_range(images)).pooled_BD.float(), None


class TeacherFrechet(FrechetDistance):
    """teacher: a name of configs/teacher. image_size: what ${data.image_size} stands for in that YAML.

    weights: what ${weights} stands for there. small: the teacher's own `tiny:` values, to see that everything works.
    """

    quantities = {"fd": Quantity("fd", better="lower", curve_decimals=2)}
    protocol_fields = {"weights": "weights"}
    own_fields = ("teacher", "image_size", "small")

    def __init__(
        self,
        *,
        teacher: str = "dinov2_b",
        weights: str = "pretrained",
        image_size: int = 224,
        small: bool = False,
        **options: Any,
    ) -> None:
        settings = {"teacher": teacher, "weights": weights, "image_size": image_size, "small": small}
        super().__init__(extractor=Network.of(TeacherFeatures, **settings), **options)
        self.teacher, self.image_size, self.small = teacher, image_size, small

    @property
    def main_key(self) -> str:
        return f"fd[{self.teacher}]"

    def frechet_key(self, count: int) -> str:
        return f"{self.main_key}{self.network.mark}@{count}"

    def describe(self, protocol: object) -> list[tuple[str, str]]:
        return [
            ("Teacher's Frechet distance", f"pooled features of {self.teacher} at its own size, arithmetic as of FID")
        ]
