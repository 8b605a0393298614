"""DISTS (Ding et al., arXiv 2004.07728): similarity of structure and of texture in the features of VGG16.

The arithmetic and the published weights of its terms are torchmetrics'; the trunk is found as that of LPIPS is.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.functional.image.dists import _PATH_WEIGHT_DISTS, DISTSNetwork, L2pooling

from ...losses.lpips import LPIPSNet
from .base import MeanOverImages, Quantity
from .networks import Network

STAGES = {1: range(4), 2: range(5, 9), 3: range(10, 16), 4: range(17, 23), 5: range(24, 30)}  # of VGG16's layers
WIDTHS = (3, 64, 128, 256, 512, 512)


class DistsNetwork(DISTSNetwork):
    """torchmetrics' network with a trunk from anywhere: its own constructor can only download one."""

    def __init__(self, *, weights: str) -> None:
        nn.Module.__init__(self)
        trunk = LPIPSNet(net="vgg", weights=weights, setting="protocol.lpips_vgg")
        for number, layers in STAGES.items():  # L2 pooling stands where VGG16 takes the maximum
            pooling = [L2pooling(channels=WIDTHS[number - 1])] if number > 1 else []
            setattr(self, f"stage{number}", nn.Sequential(*pooling, *(trunk.features[i] for i in layers)))
        self.chns = list(WIDTHS)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, -1, 1, 1))
        for name, value in torch.load(_PATH_WEIGHT_DISTS, map_location="cpu", weights_only=True).items():
            setattr(self, name, nn.Parameter(value))
        self.origin, self.weights_are_random, self.source = trunk.origin, trunk.weights_are_random, weights
        self.label = "dists" + (f"[{self.origin.label}]" if self.origin.label else "")


class Dists(MeanOverImages):
    """Mean over images. weights: of VGG16, as for lpips_vgg: pretrained, random, or the path of torchvision's file."""

    higher_is_better = False
    quantities = {"dists": Quantity("DISTS", better="lower")}
    protocol_fields = {"weights": "lpips_vgg"}

    def __init__(self, *, weights: str = "pretrained", **options: Any) -> None:
        super().__init__(needs=Network.of(DistsNetwork, weights=weights), **options)

    def per_image(self, reference: Tensor, reconstruction: Tensor) -> Tensor:
        return self.network(reference.float() / 255, reconstruction.float() / 255)

    def words(self) -> list[tuple[str, str]]:
        return [("DISTS", "VGG16 with L2 pooling, published term weights, input in [0, 1], at the images' own size")]
