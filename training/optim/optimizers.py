"""From the `optimizer` node to an optimizer and its schedule over updates."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from ...common.errors import UserError, did_you_mean
from ...common.value_types import annotations_of, check_values

SHAPES = ("constant", "cosine", "linear", "step")
KINDS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
OPTIONS = {"adam": ("betas", "eps"), "adamw": ("betas", "eps"), "sgd": ("momentum", "nesterov")}
VALUES = {
    "betas": Sequence[float],
    "eps": float,
    "momentum": float,
    "nesterov": bool,
    "schedule": Mapping[str, Any] | None,
    "no_decay": Sequence[str],
}
# `matrices`: weights that multiply something, so no norms, biases, embeddings, codebooks; `arrays`: all of two
# dimensions or more, whatever they are (open_clip's rule).
DECAY = ("matrices", "arrays", "all")
NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Factor on the learning rate as a function of finished updates.

    warmup: updates over which it rises from near 0; the first update has 1 / warmup.
    min_ratio: where cosine and linear end, at `total` updates.
    drops: updates at which `step` multiplies by drop_factor.
    """

    total: int
    shape: str = "constant"
    warmup: int = 0
    min_ratio: float = 0.0
    drops: tuple[int, ...] = ()
    drop_factor: float = 0.1

    def __call__(self, update: int) -> float:
        if update < self.warmup:
            return (update + 1) / self.warmup
        if self.shape == "step":
            return self.drop_factor ** sum(update >= drop for drop in self.drops)
        progress = min((update - self.warmup) / max(self.total - self.warmup, 1), 1.0)
        if self.shape == "cosine":
            return self.min_ratio + (1 - self.min_ratio) * (1 + math.cos(math.pi * progress)) / 2
        if self.shape == "linear":
            return 1 - (1 - self.min_ratio) * progress
        return 1.0


def learning_rate(node: Mapping[str, Any] | None, *, total: int, key: str) -> LearningRate:
    node = {k: v for k, v in (node or {}).items() if v is not None}
    names = [f.name for f in fields(LearningRate) if f.name != "total"]
    for name in node:
        if name not in names:
            raise UserError(
                f"{key}.{name}={node[name]}: a schedule has no such setting; {did_you_mean(str(name), names)}"
            )
    check_values(node, annotations_of(LearningRate) | {"drops": Sequence[int]}, key=key)
    if node.get("shape", "constant") not in SHAPES:
        raise UserError(f"{key}.shape={node['shape']}: one of {', '.join(SHAPES)}")
    if node.get("shape") == "step" and not node.get("drops"):
        raise UserError(f"{key}.drops: shape=step needs the updates at which it drops, e.g. drops=[10000,20000]")
    if node.get("warmup", 0) < 0:
        raise UserError(f"{key}.warmup={node['warmup']}: a number of updates, 0 or more")
    if not 0 <= node.get("min_ratio", 0.0) <= 1:
        raise UserError(f"{key}.min_ratio={node['min_ratio']}: between 0 and 1, a share of lr")
    return LearningRate(total=total, **(node | {"drops": tuple(node.get("drops", ()))}))


def build_optimizer(node: Mapping[str, Any], modules: Iterable[nn.Module], *, key: str) -> torch.optim.Optimizer:
    """Over all parameters of `modules` that train; `decay` and `no_decay` say which of them weight_decay shrinks."""
    name = node.get("name", "adam")
    if not isinstance(name, str) or name not in KINDS:
        raise UserError(f"{key}.name={name}: {did_you_mean(str(name), KINDS)}")
    known = ("name", "lr", "weight_decay", "decay", "no_decay", "schedule", *OPTIONS[name])
    # A swap of the optimizer leaves settings of the other one behind as null.
    given = {k: v for k, v in node.items() if v is not None and k != "tiny"}
    for setting in given:
        if setting not in known:
            raise UserError(
                f"{key}.{setting}={given[setting]}: {name} has no such setting; {did_you_mean(setting, known)}"
            )
    check_values(given, VALUES | {"schedule": Mapping[str, Any]}, key=key)
    lr, decay = given.get("lr"), given.get("weight_decay", 0.0)
    if not isinstance(lr, (int, float)) or isinstance(lr, bool) or not lr > 0:
        raise UserError(f"{key}.lr={lr}: a number above 0 (YAML reads 1e-4 as text, 1.0e-4 as a number)")
    if not isinstance(decay, (int, float)) or isinstance(decay, bool) or decay < 0:
        raise UserError(f"{key}.weight_decay={decay}: 0 or more")
    if given.get("decay", "matrices") not in DECAY:
        raise UserError(f"{key}.decay={given['decay']}: {did_you_mean(str(given['decay']), DECAY)}")
    modules, no_decay = list(modules), given.get("no_decay", ())
    check_fragments(no_decay, modules, key=f"{key}.no_decay")
    groups = parameter_groups(modules, weight_decay=decay, decay=given.get("decay", "matrices"), no_decay=no_decay)
    if not groups:
        raise UserError(f"{key}: nothing is left to train; take a part out of freeze=[...]")
    options = {k: given[k] for k in OPTIONS[name] if k in given}
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
        if len(options["betas"]) != 2:
            raise UserError(f"{key}.betas={given['betas']}: two numbers, e.g. [0.9, 0.99]")
    fused = all(p.device.type in ("cuda", "cpu") for g in groups for p in g["params"])
    try:
        return KINDS[name](groups, lr=lr, fused=fused, **options)
    except ValueError as error:  # betas=[2, 0], eps=-1, nesterov without momentum: torch's words do for these
        raise UserError(f"{key}: {name} refuses {options}: {error}") from error


def parameter_groups(
    modules: Iterable[nn.Module], *, weight_decay: float, decay: str = "matrices", no_decay: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Two groups, with and without decay. no_decay: fragments of names that are spared whatever `decay` says."""
    decayed, kept, seen = [], [], set()
    for root in modules:
        for path, module in root.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                if not parameter.requires_grad or id(parameter) in seen:
                    continue
                seen.add(id(parameter))
                spared = any(fragment in f"{path}.{name}".removeprefix(".") for fragment in no_decay)
                shrinks = weight_decay > 0 and not spared and _decays(module, name, parameter, decay)
                (decayed if shrinks else kept).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]


def _decays(module: nn.Module, name: str, parameter: nn.Parameter, decay: str) -> bool:
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
