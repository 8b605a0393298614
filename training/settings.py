"""The `trainer` node, checked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..common.errors import UserError, did_you_mean
from ..common.precision import chosen_arithmetic
from ..common.value_types import annotations_of, check_values

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    max_updates: int
    max_time: str | None = None
    checkpoint_every: int = 1000
    keep_checkpoints: int = 1
    validate_every: int = 1000
    val_images: int = 512
    log_every: int = 10
    precision: str = "auto"  # precision.without_auto settles it
    compile: bool = False
    channels_last: bool | str = "auto"
    clip: float | None = 1.0
    accumulate: int = 1
    ema: Mapping[str, Any] | None = None
    max_nonfinite: int = 20
    accelerator: str = "auto"
    devices: int | str = "auto"
    strategy: str = "auto"
    threads: int | None = None

    @classmethod
    def from_config(cls, node: Mapping[str, Any]) -> "TrainerSettings":
        names = [f.name for f in fields(cls)]
        for name in node:
            if name not in names and name != "tiny":
                raise UserError(f"trainer.{name}={node[name]}: no such setting; {did_you_mean(str(name), names)}")
        if "max_updates" not in node:
            raise UserError("trainer.max_updates: says how many updates to train, and nothing sets it")
        return cls(**{k: v for k, v in node.items() if k != "tiny"})

    def __post_init__(self) -> None:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        check_values(values, annotations_of(type(self)), key="trainer")
        for name, least in (
            ("max_updates", 1),
            ("checkpoint_every", 1),
            ("keep_checkpoints", 0),
            ("validate_every", 1),
            ("val_images", 1),
            ("log_every", 1),
            ("accumulate", 1),
            ("max_nonfinite", 1),
        ):
            value = getattr(self, name)
            if value < least:
                raise UserError(f"trainer.{name}={value}: give a whole number, {least} or more")
        if self.max_time is not None and not self.max_seconds:
            raise UserError(f"trainer.max_time={self.max_time}: [DD:]HH:MM:SS, such as 11:50:00, or null for no limit")
        for name, allowed in (("precision", PRECISIONS), ("accelerator", ACCELERATORS)):
            if getattr(self, name) not in allowed:
                raise UserError(f"trainer.{name}={getattr(self, name)}: one of {', '.join(allowed)}")
        if not isinstance(self.channels_last, bool) and self.channels_last != "auto":
            raise UserError(f"trainer.channels_last={self.channels_last}: auto, true or false")
        if self.clip is not None and not self.clip > 0:
            raise UserError(
                f"trainer.clip={self.clip}: the largest gradient norm, above 0; null to leave gradients alone"
            )
        if self.threads is not None and self.threads < 1:
            raise UserError(f"trainer.threads={self.threads}: 1 or more, null for torch's own choice")
        if self.devices != "auto" and (not isinstance(self.devices, int) or self.devices < 1):
            raise UserError(f"trainer.devices={self.devices}: a number of processes on this machine, or auto")

    @property
    def max_seconds(self) -> int | None:
        """None without a limit, and for a text that is none."""
        parts = re.fullmatch(r"(?:(\d+):)?(\d+):([0-5]?\d):([0-5]?\d)", self.max_time or "")
        if parts is None:
            return None
        days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def without_auto(settings: "TrainerSettings") -> tuple["TrainerSettings", str]:
    from dataclasses import replace

    chosen = chosen_arithmetic(
        precision=settings.precision, channels_last=settings.channels_last, accelerator=settings.accelerator
    )
    return replace(settings, precision=chosen.precision, channels_last=chosen.channels_last), chosen.line
