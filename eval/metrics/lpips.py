"""LPIPS v0.1 (Zhang et al., arXiv 1801.03924): distance of image and reconstruction in one backbone's features."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from torch import Tensor

from ...common.pixels import to_model_range
from ...common.types import IndexSegment
from ...losses.lpips import LPIPSNet
from .base import MeanOverImages, Quantity
from .networks import Network


class _Lpips(MeanOverImages):
    """Mean over images. weights: pretrained, random, or the path of torchvision's file."""

    higher_is_better = False
    net: ClassVar[str]

    def __init__(self, *, weights: str = "pretrained", **options: Any) -> None:
        super().__init__(needs=Network.of(MarkedLpips, net=self.net, weights=weights), **options)

    def per_image(self, reference: Tensor, reconstruction: Tensor) -> Tensor:
        return self.network(to_model_range(reference), to_model_range(reconstruction))

    def start(self, image_size: tuple[int, int], layout: Sequence[IndexSegment]) -> str | None:
        smallest = self.network.module.smallest_image
        if min(image_size) >= smallest:
            return None
        return f"needs images of {smallest} pixels or more, these have {min(image_size)}"

    def words(self) -> list[tuple[str, str]]:
        return [("LPIPS", "v0.1 heads, input in [-1, 1], never without its backbone's name")]


class LpipsVgg(_Lpips):
    """In the features of VGG16."""

    net = "vgg"
    quantities = {"lpips_vgg": Quantity("LPIPS vgg", better="lower")}
    protocol_fields = {"weights": "lpips_vgg"}


class LpipsAlex(_Lpips):
    """In the features of AlexNet."""

    net = "alex"
    quantities = {"lpips_alex": Quantity("LPIPS alex", better="lower")}
    protocol_fields = {"weights": "lpips_alex"}


class MarkedLpips(LPIPSNet):
    """The network of the loss, named as metric networks are."""

    def __init__(self, *, net: Literal["vgg", "alex"], weights: str) -> None:
        super().__init__(net=net, weights=weights, setting=f"protocol.lpips_{net}")
        self.label = f"lpips_{net}" + (f"[{self.origin.label}]" if self.origin.label else "")
        self.source = weights
