"""The `trainer` node, checked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from ..common.build import build_as
from ..common.precision import chosen_arithmetic
from .optim.ema import EMA


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    max_updates: int
    max_time: str | None = None
    checkpoint_every: int = 1000
    keep_checkpoints: int = 1
    validate_every: int = 1000
    val_images: int = 512
    log_every: int = 10
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # without_auto settles it
    compile: bool = False
    channels_last: bool | Literal["auto"] = "auto"
    clip: float | None = 1.0
    accumulate: int = 1
    ema: Mapping[str, Any] | None = None
    max_nonfinite: int = 20
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: int | Literal["auto"] = "auto"
    strategy: str = "auto"
    threads: int | None = None
    lightning: Mapping[str, Any] | None = None  # lightning_options.py checks it

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip={self.clip}: the largest gradient norm, above 0; null to leave gradients alone")
        for name, value in vars(self).items():
            least = 0 if name == "keep_checkpoints" else 1
            if type(value) is int and value < least:
                raise ValueError(f"{name}={value}: a whole number, {least} or more")
        if self.max_time is not None and not self.max_seconds:
            raise ValueError(f"max_time={self.max_time}: [DD:]HH:MM:SS, such as 11:50:00, or null for no limit")
        if self.ema is not None:
            build_as(EMA, self.ema, key="trainer.ema", tokenizer=nn.Identity())

    @property
    def max_seconds(self) -> int | None:
        """None without a limit, and for a text that is none."""
        parts = re.fullmatch(r"(?:(\d+):)?(\d+):([0-5]?\d):([0-5]?\d)", self.max_time or "")
        if parts is None:
            return None
        days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def without_auto(settings: TrainerSettings) -> tuple[TrainerSettings, str]:
    """With the precision and memory layout that this machine is fast in, and the line that says so."""
    chosen = chosen_arithmetic(
        precision=settings.precision, channels_last=settings.channels_last, accelerator=settings.accelerator
    )
    settings = replace(settings, precision=chosen.precision, channels_last=chosen.channels_last)  # type: ignore[arg-type]
    return settings, chosen.line
