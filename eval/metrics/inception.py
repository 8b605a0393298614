"""Feature extractors of the Frechet distance: the 2015 Inception as torch-fidelity ports it, and a tiny random one.

Callables, not modules of the tokenizer: nothing here may end in a checkpoint.
"""

import io
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.weights import Published, fill, find, read
from ..protocol import Protocol

PUBLISHED = Published(
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d",
)

SIDE = 299


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


class InceptionExtractor:
    """uint8 (or unrounded [-1, 1]) images to pooled features [B, 2048] and unbiased logits [B, 1008]."""

    width = 2048
    has_logits = True

    def __init__(self, *, protocol: Protocol, device: torch.device, seed: int = 0) -> None:
        self.origin = find(protocol.inception, published=PUBLISHED, setting="protocol.inception")
        self.weights_are_random, self.sha256 = self.origin.random, self.origin.sha256
        # Another network measures another distance.
        self.name = "random-inception" if self.origin.random else f"inception-{self.origin.label or 2015}"
        self.file = None if self.origin.path is None else str(self.origin.path)
        network = inception_network(self.file, seed=seed)
        *trunk, self.head = network.children()  # in the order in which forward runs them
        self.trunk = nn.Sequential(*trunk).to(device).to(memory_format=torch.channels_last)
        self.head = self.head.to(device)
        self.resize = RESIZES[protocol.fid_resize]
        self.wants_floats = protocol.fid_pixels == "float"

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.wants_floats:
            x = self.resize(images.float())
        else:
            assert images.dtype == torch.uint8
            x = (self.resize(images.float()) - 128) / 128
        features = self.trunk(x.contiguous(memory_format=torch.channels_last)).flatten(1)
        return features, features.mm(self.head.weight.mT)


class RandomConvolutions:
    """64 features from four seeded random layers: a regression value for tests and CI, without perceptual meaning."""

    width = 64
    has_logits = False
    weights_are_random = True
    name = "randconv-64"
    file = sha256 = None

    def __init__(self, *, protocol: Protocol, device: torch.device, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.layers = []
        for narrow, wide in ((3, 16), (16, 32), (32, 64), (64, 64)):
            weight = torch.randn(wide, narrow, 3, 3, generator=generator) * (2 / (9 * narrow)) ** 0.5
            self.layers.append(weight.to(device))
        self.wants_floats = protocol.fid_pixels == "float"

    def __call__(self, images: Tensor) -> tuple[Tensor, None]:
        x = images.float() if self.wants_floats else images.float() / 127.5 - 1
        for weight in self.layers:
            x = F.relu(F.conv2d(x, weight, stride=2, padding=1))
        return x.mean((-2, -1)), None
