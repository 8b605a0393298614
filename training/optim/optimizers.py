"""From the `optimizer` node to an optimizer and its schedule over updates."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import nn

from ...common.build import build_as
from ...common.distributed import is_sharded
from ...common.errors import UserError, did_you_mean

OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
OPTIONS = {"adam": ("betas", "eps"), "adamw": ("betas", "eps"), "sgd": ("momentum", "nesterov")}
# `matrices`: weights that multiply something, so no norms, biases, embeddings, codebooks; `arrays`: all of two
# dimensions or more, whatever they are (open_clip's rule).
Decay = Literal["matrices", "arrays", "all"]
NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Factor on the learning rate as a function of finished updates.

    warmup: updates over which it rises from near 0; the first update has 1 / warmup.
    warmup_start: where it rises from instead, a share of lr; the first update has just that.
    warmup_within: cosine and linear count from the first update on and are on their way when the warm-up ends.
    min_ratio: where cosine and linear end, at `total` updates.
    drops: updates at which `step` multiplies by drop_factor.
    every: updates between two changes; an epoch's in timm's schedules.
    length: updates until cosine and linear end, where that is not the end of the run.
    """

    total: int
    shape: Literal["constant", "cosine", "linear", "step"] = "constant"
    warmup: int = 0
    warmup_start: float | None = None
    warmup_within: bool = False
    min_ratio: float = 0.0
    drops: Sequence[int] = ()
    drop_factor: float = 0.1
    every: int = 1
    length: int | None = None

    def __post_init__(self) -> None:
        if self.shape == "step" and not self.drops:
            raise ValueError("drops: shape=step needs the updates at which it drops, e.g. drops=[10000,20000]")
        if self.warmup < 0:
            raise ValueError(f"warmup={self.warmup}: a number of updates, 0 or more")
        for name in ("every", "length"):
            if (updates := getattr(self, name)) is not None and updates < 1:
                raise ValueError(f"{name}={updates}: a number of updates, 1 or more")
        for name in ("min_ratio", "warmup_start"):
            if (share := getattr(self, name)) is not None and not 0 <= share <= 1:
                raise ValueError(f"{name}={share}: between 0 and 1, a share of lr")

    def __call__(self, update: int) -> float:
        update = update // self.every * self.every
        if update < self.warmup:
            if self.warmup_start is None:
                return (update + 1) / self.warmup
            return self.warmup_start + (1 - self.warmup_start) * update / self.warmup
        if self.shape == "step":
            return self.drop_factor ** sum(update >= drop for drop in self.drops)
        first = 0 if self.warmup_within else self.warmup
        progress = min((update - first) / max((self.length or self.total) - first, 1), 1.0)
        if self.shape == "cosine":
            return self.min_ratio + (1 - self.min_ratio) * (1 + math.cos(math.pi * progress)) / 2
        if self.shape == "linear":
            return 1 - (1 - self.min_ratio) * progress
        return 1.0


def learning_rate(node: Mapping[str, Any] | None, *, total: int, key: str) -> LearningRate:
    return build_as(LearningRate, _without_null(node), key=key, total=total)


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """The `optimizer` node."""

    lr: float
    name: str = "adam"
    weight_decay: float = 0.0
    decay: Decay = "matrices"
    no_decay: Sequence[str] = ()
    schedule: Mapping[str, Any] | None = None
    betas: Sequence[float] | None = None
    eps: float | None = None
    momentum: float | None = None
    nesterov: bool | None = None

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise ValueError(f"name={self.name}: {did_you_mean(self.name, OPTIMIZERS)}")
        for option in sorted({o for options in OPTIONS.values() for o in options} - set(OPTIONS[self.name])):
            if getattr(self, option) is not None:
                options = ", ".join(OPTIONS[self.name])
                raise ValueError(f"{option}={getattr(self, option)}: {self.name} has no such setting, but {options}")
        if not self.lr > 0:
            raise ValueError(f"lr={self.lr}: a number above 0")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay}: 0 or more")
        if self.betas is not None and len(self.betas) != 2:
            raise ValueError(f"betas={self.betas}: two numbers, e.g. [0.9, 0.99]")

    @property
    def options(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in OPTIONS[self.name]}
        return {name: tuple(v) if name == "betas" else v for name, v in given.items() if v is not None}


def build_optimizer(node: Mapping[str, Any], modules: Iterable[nn.Module], *, key: str) -> torch.optim.Optimizer:
    """Over all parameters of `modules` that train; `decay` and `no_decay` say which of them weight_decay shrinks."""
    # A swap of the optimizer leaves settings of the other one behind as null.
    settings = build_as(OptimizerSettings, _without_null(node), key=key)
    modules = list(modules)
    check_fragments(settings.no_decay, modules, key=f"{key}.no_decay")
    groups = parameter_groups(
        modules, weight_decay=settings.weight_decay, decay=settings.decay, no_decay=settings.no_decay
    )
    if not groups:
        raise UserError(f"{key}: nothing is left to train; take a part out of freeze=[...]")
    groups = [part for group in groups for part in apart(group)]
    fused = all(p.device.type in ("cuda", "cpu") for g in groups for p in g["params"])
    make: Any = OPTIMIZERS[settings.name]
    try:
        return make(groups, lr=settings.lr, fused=fused, **settings.options)
    except ValueError as error:  # betas=[2, 0], eps=-1, nesterov without momentum: torch's words do for these
        raise UserError(f"{key}: {settings.name} refuses {settings.options}: {error}") from error


def _without_null(node: Any) -> Any:
    return {k: v for k, v in node.items() if v is not None} if isinstance(node, Mapping) else node


def parameter_groups(
    modules: Iterable[nn.Module], *, weight_decay: float, decay: Decay = "matrices", no_decay: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Two groups, with and without decay. no_decay: fragments of names that have none, whatever `decay` says."""
    shrinks: dict[nn.Parameter, bool] = {}
    for root in modules:
        for path, module in root.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.requires_grad and parameter not in shrinks:
                    excluded = any(fragment in f"{path}.{name}".removeprefix(".") for fragment in no_decay)
                    shrinks[parameter] = weight_decay > 0 and not excluded and _decays(module, name, parameter, decay)
    groups: list[dict[str, Any]] = [
        {"params": [p for p, is_decayed in shrinks.items() if is_decayed], "weight_decay": weight_decay},
        {"params": [p for p, is_decayed in shrinks.items() if not is_decayed], "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]


def apart(group: dict[str, Any]) -> list[dict[str, Any]]:
    """Whole parameters and sharded ones (fsdp2) in groups of their own: no kernel takes both kinds at once."""
    kinds = [[p for p in group["params"] if is_sharded(p) is kind] for kind in (False, True)]
    return [group | {"params": params} for params in kinds if params]


def _decays(module: nn.Module, name: str, parameter: nn.Parameter, decay: Decay) -> bool:
    if decay == "all":
        return True
    if decay == "arrays":
        return parameter.ndim >= 2
    multiplies = parameter.ndim >= 2 and ("weight" in name or name in ("original0", "original1"))
    return multiplies and not isinstance(module, (*NORMS, nn.Embedding))


def check_fragments(fragments: Sequence[str], modules: Iterable[nn.Module], *, key: str) -> None:
    """Frozen parameters count as found: a second stage keeps the rule of the first."""
    names = [name for module in modules for name, _ in module.named_parameters()]
    for fragment in fragments:
        if not fragment or not any(fragment in name for name in names):
            owners = [name.rpartition(".")[0] for name in names]
            close = get_close_matches(fragment, owners, n=1)
            tail = f"did you mean {close[0]!r}?" if close else f"one is {names[0]!r}"
            raise UserError(f"{key}={list(fragments)}: no parameter's name contains {fragment!r}; {tail}")
