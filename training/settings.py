"""The `trainer` node, checked."""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from torch import nn

from ..common.build import build_as
from ..common.errors import did_you_mean
from ..common.precision import chosen_arithmetic
from .optim.ema import EMA

# Arguments of lightning.Trainer that imtok sets, and the key that does the same, if any.
SET_BY_IMTOK = {
    "accelerator": "trainer.accelerator",
    "accumulate_grad_batches": "trainer.accumulate",
    "barebones": "",
    "callbacks": "callbacks",
    "check_val_every_n_epoch": "trainer.validate_every",
    "default_root_dir": "hydra.run.dir",
    "devices": "trainer.devices",
    "enable_checkpointing": "callbacks=[checkpoint]",
    "enable_progress_bar": "callbacks=[progress]",
    "fast_dev_run": "debug=tiny",
    "gradient_clip_algorithm": "trainer.clip",
    "gradient_clip_val": "trainer.clip",
    "log_every_n_steps": "trainer.log_every",
    "logger": "logger",
    "max_epochs": "trainer.max_updates",
    "max_steps": "trainer.max_updates",
    "max_time": "trainer.max_time",
    "min_epochs": "",
    "min_steps": "",
    "num_nodes": "",  # torchrun says it
    "num_sanity_val_steps": "",
    "precision": "trainer.precision",
    "reload_dataloaders_every_n_epochs": "",
    "strategy": "trainer.strategy",
    "use_distributed_sampler": "",
    "val_check_interval": "trainer.validate_every",
}


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """lightning: arguments of lightning.Trainer that have no name here (profiler, ...)."""

    max_updates: int
    max_time: str | None = None
    checkpoint_every: int = 1000
    keep_checkpoints: int = 1
    validate_every: int = 1000
    val_images: int = 512
    log_every: int = 10
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # without_auto settles it
    tf32: bool = True
    compile: bool = False
    checkpoint_activations: Sequence[str] = field(default_factory=list)
    channels_last: bool | Literal["auto"] = "auto"
    clip: float | None = 1.0
    accumulate: int | None = None
    ema: Mapping[str, Any] | None = None
    max_nonfinite: int = 20
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    devices: int | Literal["auto"] = "auto"
    strategy: str = "auto"
    threads: int | None = None
    lightning: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip={self.clip}: the largest gradient norm, above 0; null to leave gradients alone")
        if isinstance(parts := self.checkpoint_activations, str):
            raise ValueError(f"checkpoint_activations={parts}: a list of parts, [{parts}]")
        for name, value in vars(self).items():
            least = 0 if name == "keep_checkpoints" else 1
            if type(value) is int and value < least:
                raise ValueError(f"{name}={value}: a whole number, {least} or more")
        if self.max_time is not None and not self.max_seconds:
            raise ValueError(f"max_time={self.max_time}: [DD:]HH:MM:SS, such as 11:50:00, or null for no limit")
        if self.ema is not None:
            build_as(EMA, self.ema, key="trainer.ema", tokenizer=nn.Identity())
        if self.lightning:
            _check_lightning(self.lightning)

    @property
    def micro_batches(self) -> int:
        """Of an update; build_training has settled `accumulate`."""
        return self.accumulate or 1

    @property
    def max_seconds(self) -> int | None:
        """None without a limit, and for a text that is none."""
        parts = re.fullmatch(r"(?:(\d+):)?(\d+):([0-5]?\d):([0-5]?\d)", self.max_time or "")
        if parts is None:
            return None
        days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _check_lightning(given: Mapping[str, Any]) -> None:
    """Each is an argument of lightning.Trainer that imtok does not set itself."""
    from lightning.pytorch import Trainer

    free = [n for n in inspect.signature(Trainer.__init__).parameters if n != "self" and n not in SET_BY_IMTOK]
    for name, value in given.items():
        if name in SET_BY_IMTOK:
            instead = f"; use {SET_BY_IMTOK[name]}" if SET_BY_IMTOK[name] else ""
            raise ValueError(f"lightning.{name}={value}: imtok sets this argument itself{instead}")
        if name not in free:
            raise ValueError(
                f"lightning.{name}={value}: lightning.Trainer has no such argument; {did_you_mean(name, free)}"
            )


def without_auto(settings: TrainerSettings) -> tuple[TrainerSettings, str]:
    """With the precision and memory layout that this machine is fast in, and the line that says so."""
    chosen = chosen_arithmetic(
        precision=settings.precision,
        channels_last=settings.channels_last,
        accelerator=settings.accelerator,
        tf32=settings.tf32,
    )
    settings = replace(settings, precision=chosen.precision, channels_last=chosen.channels_last, tf32=chosen.tf32)  # type: ignore[arg-type]
    return settings, chosen.line
