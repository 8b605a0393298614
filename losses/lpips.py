"""LPIPS v0.1 (Zhang et al., arXiv:1801.03924): distance of images in the features of a frozen classifier."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..common.errors import UserError
from ..common.frozen import Frozen
from ..common.precision import autocast_of
from ..common.weights import load, torchvision_file
from .base import ReconstructionTerm

# The layers of torchvision's `features`, with the same numbers: (channels, kernel, stride, padding) a convolution with
# its ReLU, (kernel, stride) a max pool. `taps` are the numbers of the ReLUs that are compared.
_VGG_POOL = (2, 2)
_VGG = [w if w == _VGG_POOL else (w, 3, 1, 1) for w in (
    64, 64, _VGG_POOL, 128, 128, _VGG_POOL, 256, 256, 256, _VGG_POOL, 512, 512, 512, _VGG_POOL, 512, 512, 512,
)]  # fmt: skip
_ALEX = [(64, 11, 4, 2), (3, 2), (192, 5, 1, 2), (3, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1)]
_NETS: dict[str, dict[str, Any]] = {
    "vgg": {"layers": _VGG, "taps": (3, 8, 15, 22, 29), "smallest": 16, "file": "vgg16-397923af.pth"},
    "alex": {"layers": _ALEX, "taps": (1, 4, 7, 9, 11), "smallest": 31, "file": "alexnet-owt-7be5be79.pth"},
}


class LPIPSNet(nn.Module):
    """Images and targets in [-1, 1] to one distance a pair, [B]. Gradients reach the images, never the targets.

    weights: "pretrained" (torchvision's file in TORCH_HOME, else fetched), PATH of such a file, or "random" (seeded).
    The linear heads are the published ones in every case; they come with torchmetrics.
    setting: the user's name for `weights`, for error lines.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self, *, net: Literal["vgg", "alex"] = "vgg", weights: str = "pretrained", setting: str = "weights"
    ) -> None:
        super().__init__()
        facts = _NETS[net]
        self.net = net
        self.smallest_image: int = facts["smallest"]
        self.features = _trunk(facts["layers"])
        self.taps: tuple[int, ...] = facts["taps"]
        _randomise(self.features, seed=0)
        self.origin = load(
            self.features,
            weights,
            published=torchvision_file(facts["file"]),
            setting=setting,
            prefixes=("features.", ""),
            network=f"torchvision's {net}",
        )
        self.weights_are_random = self.origin.random
        for number, head in enumerate(_published_heads(net)):
            self.register_buffer(f"head_{number}", head)
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        if min(images.shape[-2:]) < self.smallest_image:
            height, width = images.shape[-2:]
            raise UserError(
                f"data.image_size={[height, width]}: LPIPS with {self.net} needs {self.smallest_image} pixels or more; "
                "take the lpips loss out"
            )
        with torch.no_grad():
            target_features = self._features(target)
        features = self._features(images)
        distance = torch.zeros(len(images), device=images.device)
        with torch.autocast(images.device.type, enabled=False):  # the sums cancel; bf16 would lose them
            for number, (ours, theirs) in enumerate(zip(features, target_features, strict=True)):
                difference = (_unit(ours.float()) - _unit(theirs.float())).square()
                head = getattr(self, f"head_{number}").float()
                distance = distance + (difference * head).sum(1).mean((1, 2))
        return distance

    def _features(self, images: Tensor) -> list[Tensor]:
        with torch.autocast(images.device.type, enabled=False):
            x = (images.float() - self.shift) / self.scale
        x = x.to(next(self.features.parameters()).dtype).contiguous(memory_format=torch.channels_last)
        found = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.taps:
                found.append(x)
        return found


class LPIPS(ReconstructionTerm):
    """Mean LPIPS distance of reconstruction and image; skip_masked_samples: see ReconstructionTerm.

    precision: of its network, auto (trainer.precision) | fp32.
    """

    def __init__(
        self,
        *,
        net: Literal["vgg", "alex"] = "vgg",
        weights: str = "pretrained",
        skip_masked_samples: bool = False,
        precision: Literal["auto", "fp32"] = "auto",
    ) -> None:
        super().__init__(skip_masked_samples=skip_masked_samples)
        self.net = Frozen(LPIPSNet(net=net, weights=weights))
        self.precision = precision

    def distance(self, images: Tensor, target: Tensor) -> Tensor:
        with autocast_of(self.precision, images.device):
            return self.net(images, target)

    def misfit(self, tokenizer: nn.Module) -> str | None:
        sides: Any = tokenizer.image_size
        smallest = self.net.smallest_image
        if min(sides) < smallest:
            size = f"data.image_size={list(sides)}"
            return f": LPIPS with {self.net.net} needs images of {smallest} pixels, {size}; remove it"
        return super().misfit(tokenizer)


def _unit(features: Tensor) -> Tensor:
    """Unit length across channels. The epsilon stands under the root, whose gradient at 0 would be infinite."""
    return features / (features.square().sum(1, keepdim=True) + 1e-8).sqrt()


def _trunk(layers: list[tuple[int, ...]]) -> nn.Sequential:
    modules: list[nn.Module] = []
    width = 3
    for layer in layers:
        if len(layer) == 2:
            modules.append(nn.MaxPool2d(*layer))
        else:
            wider, kernel, stride, padding = layer
            modules += [nn.Conv2d(width, wider, kernel, stride, padding), nn.ReLU(inplace=True)]
            width = wider
    return nn.Sequential(*modules)


def _randomise(trunk: nn.Sequential, *, seed: int) -> None:
    """Kaiming normal, the same numbers on every machine and whatever was drawn before."""
    generator = torch.Generator().manual_seed(seed)
    for module in trunk:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            assert module.bias is not None
            nn.init.zeros_(module.bias)


def _published_heads(net: str) -> list[Tensor]:
    """Five vectors [C, 1, 1], as torchmetrics ships them; its own import, slow, is not needed for that."""
    spec = find_spec("torchmetrics")
    assert spec is not None and spec.origin is not None, "torchmetrics is a dependency"
    path = Path(spec.origin).parent / "functional/image/lpips_models" / f"{net}.pth"
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [state[f"lin{number}.model.1.weight"][0] for number in range(5)]
