"""Optimizer states in the order of the modules, so that one file serves runs with and without sharding.

torch numbers parameters as they stand in its groups, and with fsdp2 groups are split in two (`optimizers.apart`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ...common.distributed import is_sharded


def in_module_order(optimizer: torch.optim.Optimizer, modules: Sequence[nn.Module]) -> dict[str, Any]:
    """optimizer.state_dict() with the groups and numbers that it has where nothing is sharded."""
    state = optimizer.state_dict()
    if not _is_split(optimizer):
        return state
    in_order = joined(optimizer, modules)
    own = _numbers(group["params"] for group in optimizer.param_groups)
    new = _numbers(in_order)
    settings = {group["weight_decay"]: group for group in state["param_groups"]}
    together = zip(settings.values(), in_order, strict=True)
    groups = [group | {"params": [new[id(p)] for p in params]} for group, params in together]
    values = {number: state["state"][own[i]] for i, number in new.items() if own[i] in state["state"]}
    return {"state": values, "param_groups": groups}


def in_own_order(
    state: dict[str, Any], optimizer: torch.optim.Optimizer, modules: Sequence[nn.Module]
) -> dict[str, Any]:
    """The way back, for optimizer.load_state_dict."""
    if not _is_split(optimizer):
        return state
    in_order = joined(optimizer, modules)
    if [len(g["params"]) for g in state["param_groups"]] != [len(params) for params in in_order]:
        return state  # refused by torch, in its words
    own = _numbers(group["params"] for group in optimizer.param_groups)
    saved = _numbers(in_order)
    values = {own[i]: state["state"][n] for i, n in saved.items() if n in state["state"]}
    return {"state": values, "param_groups": optimizer.state_dict()["param_groups"]}


def _is_split(optimizer: torch.optim.Optimizer) -> bool:
    return any(is_sharded(p) for group in optimizer.param_groups for p in group["params"])


def joined(optimizer: torch.optim.Optimizer, modules: Sequence[nn.Module]) -> list[list[nn.Parameter]]:
    """Parameters by weight decay, each in the order of the modules."""
    place = {id(p): n for n, p in enumerate(p for module in modules for p in module.parameters())}
    by_decay: dict[float, list[nn.Parameter]] = {}
    for group in optimizer.param_groups:
        by_decay.setdefault(group["weight_decay"], []).extend(group["params"])
    return [sorted(params, key=lambda p: place[id(p)]) for params in by_decay.values()]


def _numbers(groups: Any) -> dict[int, int]:
    return {id(p): n for n, p in enumerate(p for group in groups for p in group)}
