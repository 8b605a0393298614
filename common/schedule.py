"""A weight over updates: a number, or `{start:, end:, updates:, after: 0, shape: linear}`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .errors import UserError, did_you_mean

SHAPES = ("linear", "cosine")


@dataclass(frozen=True)
class Schedule:
    """`start` until update `after`, then to `end` within `updates` updates, then `end`."""

    start: float
    end: float
    updates: int
    after: int = 0
    shape: str = "linear"

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
    if _is_number(value):
        return Schedule(float(value), float(value), 0)
    names = [f.name for f in fields(Schedule)]
    if not isinstance(value, Mapping):
        raise UserError(f"{key}={value}: give a number, or {{start: 0, end: 1, updates: 1000, after: 0}}")
    for name in value:
        if name not in names:
            raise UserError(
                f"{key}.{name}={value[name]}: a schedule has no such setting; {did_you_mean(str(name), names)}"
            )
    for name in ("start", "end", "updates"):
        if name not in value:
            raise UserError(f"{key}.{name}: a schedule needs start, end and updates")
    for name in ("start", "end"):
        if not _is_number(value[name]):
            raise UserError(f"{key}.{name}={value[name]}: give a number")
    for name in ("updates", "after"):
        given = value.get(name, 0)
        if not isinstance(given, int) or isinstance(given, bool) or given < 0:
            raise UserError(f"{key}.{name}={given}: give a number of updates, 0 or more")
    shape = value.get("shape", "linear")
    if shape not in SHAPES:
        raise UserError(f"{key}.shape={shape}: give one of {', '.join(SHAPES)}")
    return Schedule(float(value["start"]), float(value["end"]), value["updates"], value.get("after", 0), shape)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
