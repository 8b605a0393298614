"""A weight over updates: a number, or `{start:, end:, updates:, after: 0, shape: linear}`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .build import build_as
from .errors import UserError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`start` until update `after`, then to `end` within `updates` updates, then `end`."""

    start: float
    end: float
    updates: int
    after: int = 0
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)}: give a number")
        for name in ("updates", "after"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: give a number of updates, 0 or more")

    @property
    def ever(self) -> bool:
        """Whether it is other than 0 at any update."""
        return self.start != 0 or self.end != 0

    def __call__(self, update: int) -> float:
        """update: number of finished updates; the first one has number 0."""
        if self.updates == 0:
            progress = 1.0 if update >= self.after else 0.0
        else:
            progress = min(max((update - self.after) / self.updates, 0.0), 1.0)
        if self.shape == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * progress


def schedule_of(value: Any, *, key: str) -> Schedule:
    """What the YAML says at `key`, checked."""
    if isinstance(value, Mapping):
        return build_as(Schedule, value, key=key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{key}={value}: give a number, or {{start: 0, end: 1, updates: 1000, after: 0}}")
    return Schedule(start=value, end=value, updates=0)
