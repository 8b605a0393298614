"""How far rounding alone moves the outputs of a training step: behind kinks gradients jump."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .rows import largest_difference, scale_of

FILE = "rounding_noise.json"  # beside the folders: {folder: {output: share of its deviation}}
TIMES = 3  # what is measured may be exceeded by so much
# A wrong weight, sign, reduction or detach shows at 1e-2 and above.
GRADIENTS, MOST_OF_GRADIENTS, MOST = 3e-3, 1e-2, 1e-3
ULP = 2.0**-24

Values = Callable[[str], Tensor]  # of an output, by its name


def known_noise(folder: Path) -> Mapping[str, float] | None:
    """None: the file is not there, or says nothing about this folder."""
    path = folder.parent / FILE
    found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found.get(folder.name)


def allowed_unmeasured(noise: Mapping[str, float] | None, name: str, stored: Tensor) -> float:
    """Share of the stored tensor's deviation: by the file, or where it says nothing, of a gradient's single entries."""
    if noise is not None:
        return TIMES * noise.get(name, 0.0)
    return GRADIENTS if stored.numel() > 1 and is_gradient(name) else 0.0


def allowed_by_measure(name: str, stored: Tensor, ours: Tensor, again: list[Values]) -> float:
    """again: the same outputs from other kernels and from images a rounding error away."""
    moved = max(largest_difference(ours, values(name)) for values in again) / max(scale_of(stored), 1e-30)
    return min(TIMES * moved, most(name))


def most(name: str) -> float:
    """What rounding alone may move, whatever is measured."""
    return MOST_OF_GRADIENTS if is_gradient(name) else MOST


def is_gradient(name: str) -> bool:
    return "grad" in name.removeprefix("discriminator.").partition(".")[0]


def a_rounding_error_away(images: Tensor) -> Tensor:
    draw = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return images + images.abs() * ULP * draw
