"""The 2015 Inception as torch-fidelity ports it: where its file is found, and images to features and logits."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.errors import MissingWeights, UserError, one_line
from ...common.pixels import to_model_range
from ...common.weights import torch_hub_file

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
INCEPTION_SHA256_START = "6726825d"
SIDE, WIDTH, CLASSES = 299, 2048, 1008


def find_inception(source: str) -> Path:
    """source: `pretrained` (torch.hub's folder, else one short download) or a file that the user names."""
    if source != "pretrained":
        path = Path(source).expanduser()
        if not path.is_file():
            raise UserError(
                f"protocol.inception={source}: no such file; give pretrained, random, or the path of {INCEPTION_FILE}"
            )
        return path
    try:
        return torch_hub_file(INCEPTION_URL)
    except MissingWeights as error:
        raise MissingWeights(f"{error}; copy it there, or set protocol.inception=PATH/{INCEPTION_FILE}") from error


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


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
        try:
            network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except Exception as error:  # unpickling raises a dozen kinds
            raise UserError(
                f"protocol.inception={weights}: not torch-fidelity's 2015 Inception ({one_line(error)[:160]})"
            ) from error
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
        self.weights_are_random = weights == "random"
        file = None if self.weights_are_random else find_inception(weights)
        self.sha256 = None if file is None else sha256_of(file)
        if self.sha256 is None:
            self.label = "random-inception"
        elif self.sha256.startswith(INCEPTION_SHA256_START):
            self.label = "inception-2015"
        else:
            self.label = f"inception-{self.sha256[:8]}"  # another network measures another distance
        self.source = "random" if self.sha256 is None else f"{file} (sha256 {self.sha256[:8]})"
        network = inception_network(None if file is None else str(file), seed=seed)
        *trunk, self.head = network.children()  # in the order in which forward runs them
        self.trunk = nn.Sequential(*trunk).to(memory_format=torch.channels_last)
        self.resize = RESIZES[resize]
        self.wants_floats = pixels == "float"

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.wants_floats:
            x = self.resize(to_model_range(images) if images.dtype == torch.uint8 else images.float())
        else:
            assert images.dtype == torch.uint8
            x = (self.resize(images.float()) - 128) / 128
        features = self.trunk(x.contiguous(memory_format=torch.channels_last)).flatten(1)
        return features, features.mm(self.head.weight.mT)
