"""The 2015 Inception as torch-fidelity ports it: where its file is found, and images to features and logits."""

import io
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.pixels import to_model_range
from ...common.weights import Published, fill, find, read

PUBLISHED = Published(
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d",
)
SIDE, WIDTH, CLASSES = 299, 2048, 1008


def _tf1_bilinear(x: Tensor) -> Tensor:
    """TensorFlow 1's resize: no half-pixel offset."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    return interpolate_bilinear_2d_like_tensorflow1x(x, size=(SIDE, SIDE), align_corners=False)


RESIZES: dict[str, Callable[[Tensor], Tensor]] = {
    "tf1_bilinear": _tf1_bilinear,
    "half_pixel_bilinear": lambda x: F.interpolate(x, (SIDE, SIDE), mode="bilinear", align_corners=False),
    "antialias_bilinear": lambda x: F.interpolate(
        x, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=True
    ),
}


def inception_network(weights: str | None, *, seed: int = 0) -> nn.Module:
    """torch-fidelity's module; weights: a file, or None for a seeded random initialisation."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        """Its constructor insists on loading a file; it gets an empty one, and ignores what is in it."""

        def load_state_dict(self, state: dict, *args: object, **kwargs: object) -> object:
            return super().load_state_dict(state, *args, **kwargs) if state else None

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    with torch.random.fork_rng(devices=[]):  # the initialisation must not move the run's random numbers
        network = Unloaded("inception-2015", ["2048", "logits_unbiased"], feature_extractor_weights_path=nothing)
    if weights is not None:
        named = f"protocol.inception={weights}"
        fill(network, read(weights, source=named), source=named, network="torch-fidelity's 2015 Inception")
        return network
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):  # He: the signal must survive 48 layers
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
    nn.init.zeros_(network.fc.bias)
    return network


class InceptionExtractor(nn.Module):
    """uint8 (or unrounded [-1, 1]) images to pooled features [B, 2048] and unbiased logits [B, 1008]."""

    width = WIDTH
    classes = CLASSES

    def __init__(
        self, *, weights: str = "pretrained", resize: str = "tf1_bilinear", pixels: str = "uint8", seed: int = 0
    ) -> None:
        super().__init__()
        self.origin = find(weights, published=PUBLISHED, setting="protocol.inception")
        self.sha256 = self.origin.sha256
        # Another network measures another distance.
        self.label = "random-inception" if self.origin.random else f"inception-{self.origin.label or 2015}"
        file = None if self.origin.path is None else str(self.origin.path)
        self.source = "random" if file is None else f"{file} (sha256 {str(self.sha256)[:8]})"
        network = inception_network(file, seed=seed)
        *trunk, self.head = network.children()  # in the order in which forward runs them
        self.trunk = nn.Sequential(*trunk).to(memory_format=torch.channels_last)
        self.resize = RESIZES[resize]
        self.wants_floats = pixels == "float"

    @property
    def weights_are_random(self) -> bool:
        return self.origin.random

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.wants_floats:
            x = self.resize(to_model_range(images) if images.dtype == torch.uint8 else images.float())
        else:
            assert images.dtype == torch.uint8
            x = (self.resize(images.float()) - 128) / 128
        features = self.trunk(x.contiguous(memory_format=torch.channels_last)).flatten(1)
        return features, features.mm(self.head.weight.mT)
