"""A timm network as an encoder: the features of one of its layers, one vector per cell; frozen, a semantic tower."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.pixels import IMAGENET_DEVIATION, IMAGENET_MEAN
from ...common.timm_weights import timm_network
from ...common.types import Latents, Stream, StreamShape
from .base import Encoder


class TimmGridEncoder(Encoder):
    """Resize and normalisation from [-1, 1], the network up to `layer`, then 1x1 convolutions of width `dim`.

    pretrained: true for timm's own weights, PATH of a state dict, null to start from random ones (an export says null).
    trainable: false keeps the network as it came, running statistics of its norms too (DualViTok's semantic tower).
    tower_size: side the network sees, whatever the image; null: the image's own.
    hidden: width of one more convolution before the last; null: none.
    made_by: the command that writes the file of `pretrained`.
    """

    def __init__(
        self,
        *,
        dim: int = 64,
        model: str = "resnet10t",
        model_args: Mapping[str, Any] | None = None,
        layer: int = -1,
        final_norm: bool = True,
        pretrained: str | bool | None = None,
        trainable: bool = True,
        tower_size: int | None = None,
        hidden: int | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        deviation: Sequence[float] = IMAGENET_DEVIATION,
        made_by: str | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.tower_size, self.final_norm, self.trainable = dim, tower_size, final_norm, trainable
        options: dict[str, Any] = {"num_classes": 0} | dict(model_args or {})
        source = "pretrained" if pretrained is True else pretrained or None
        names: dict[str, Any] = {"setting": "pretrained", "otherwise": "null", "made_by": made_by}
        network, origin = timm_network(model, source, seed=None, **names, **options)
        self.network: Any = network
        described = self.network.feature_info
        described = described if isinstance(described, list) else described.info
        if not -len(described) <= layer < len(described):
            raise ValueError(f"layer={layer}: {model} has layers 0 to {len(described) - 1}")
        self.layer, self.reduction = layer % len(described), int(described[layer]["reduction"])
        self.frozen_from_nothing = not pretrained and not trainable
        if not trainable:
            self.network.requires_grad_(False).eval()
            self.origin = origin
        width = int(described[layer]["num_chs"])
        self.project: nn.Module = nn.Conv2d(width, dim, 1)
        if hidden:
            self.project = nn.Sequential(nn.Conv2d(width, hidden, 1), nn.GELU(), nn.Conv2d(hidden, dim, 1))
        self.mean = nn.Buffer(torch.tensor(list(mean))[:, None, None], persistent=False)
        self.deviation = nn.Buffer(torch.tensor(list(deviation))[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Latents:
        x = (images + 1) / 2
        size = self._seen(images.shape[-2:])
        if tuple(x.shape[-2:]) != size:
            x = F.interpolate(x, size=size, mode="bicubic", antialias=True)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trainable):
            (features_BCHW,) = self.network.forward_intermediates(
                (x - self.mean) / self.deviation,
                indices=[self.layer],
                norm=self.final_norm,
                stop_early=True,
                intermediates_only=True,
            )
        z_BDhw = self.project(features_BCHW)
        return {"main": Stream(z_BDhw.flatten(2).transpose(1, 2), grid=(z_BDhw.shape[2], z_BDhw.shape[3]))}

    def stream_shapes(self, image_size: tuple[int, int]) -> dict[str, StreamShape]:
        height, width = (-(-side // self.reduction) for side in self._seen(image_size))
        return {"main": StreamShape(height * width, (height, width))}

    def train(self, mode: bool = True) -> "TimmGridEncoder":
        super().train(mode)
        if not self.trainable:
            self.network.eval()
        return self

    def _seen(self, image_size: Sequence[int]) -> tuple[int, int]:
        return (self.tower_size,) * 2 if self.tower_size else (image_size[0], image_size[1])
