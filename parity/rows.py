"""What a comparison with stored outputs says: a row an output, and the tolerances."""

from collections import UserDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FLOAT_TOLERANCE = 1e-4  # times std(stored); for scalars times |stored|


@dataclass
class Row:
    """One compared output; integers count positions that differ."""

    output: str
    ok: bool
    error: str
    tolerance: str = ""
    size: float = 0.0  # of the error, as a number


@dataclass
class Result:
    """What one folder gave."""

    folder: Path
    name: str
    rows: list[Row] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    unused_weights: list[str] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)  # of the published model, but of no tokenizer: a text tower
    num_weights: int = 0
    shows: dict[str, bool] = field(default_factory=dict)  # forward, objective, optimizer: whether it holds

    @property
    def ok(self) -> bool:
        return bool(self.rows) and all(row.ok for row in self.rows) and not self.unused_weights


class Watched(UserDict[str, Tensor]):
    """A dict that remembers which of its entries were read: that is how inputs and unused weights are known."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.read.add(name)
        return super().__getitem__(name)


def is_training_step(config: Mapping[str, Any]) -> bool:
    """Whether a folder stores one update of a published training, not a forward pass."""
    return all(key in config for key in ("system", "optimizer", "generator_parameters"))


def compare(name: str, mine: Tensor, stored: Tensor, *, least: float = 0.0) -> Row:
    """Integers equal; floats max|d| <= 1e-4 * std(stored); scalars 1e-4 relative.

    least: a tolerance of this output's own, in its own unit, where that is larger.
    """
    if mine.shape != stored.shape:
        return Row(name, False, f"shape {list(mine.shape)}, stored {list(stored.shape)}")
    mine = mine.detach().cpu()
    if not stored.is_floating_point():
        different = int((mine.to(torch.float64) != stored.to(torch.float64)).sum())
        return Row(name, different == 0, f"{different} of {stored.numel()} differ", "equal")
    tolerance = max(FLOAT_TOLERANCE * scale_of(stored), least)
    error = largest_difference(mine, stored)
    return Row(name, error <= tolerance, f"{error:.2e}", f"{tolerance:.2e}", error)  # NaN compares False


def scale_of(stored: Tensor) -> float:
    """What errors are measured by: the standard deviation, of a single number its size."""
    stored = stored.to(torch.float64)
    return float(stored.abs().max() if stored.numel() == 1 else stored.std())


def largest_difference(a: Tensor, b: Tensor) -> float:
    return float((a.detach().double() - b.detach().double()).abs().max()) if a.numel() else 0.0
