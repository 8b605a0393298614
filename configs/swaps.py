"""Replacing a part on the command line: what the experiment sets for the part before it is left out, with one note.

`adversary=none`, `tokenizer/encoder=vit` and `tokenizer.quantizer._target_=mypkg.MyVQ` work on top of any experiment.
"""

import inspect
from collections.abc import Generator, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from ..common.build import HELPER_KEYS, locate
from ..common.console import say

Choices = dict[str, Any]  # group, as an override names it: its option, or the list of its options
OWN_PARTS = ("tokenizer", "loss", "adversary", "teacher", "data")  # where a YAML may name a class of another package


def leave_out_replaced(cfg: DictConfig, config_name: str, overrides: Sequence[str]) -> None:
    """Change `cfg`, which Hydra composed of `overrides`, in place. Hydra must be initialized."""
    given = {word.lstrip("+~").partition("=")[0]: word for word in overrides if not word.startswith("hydra.")}
    found: Any = OmegaConf.to_container(cfg, resolve=False)
    left_out = [*_of_swapped_groups(found, config_name, given), *_of_other_classes(found, config_name, given)]
    if not left_out:
        return
    with open_dict(cfg):
        for key in dict.fromkeys(name.partition(".")[0] for name in left_out):
            OmegaConf.update(cfg, key, _at(found, key), merge=False, force_add=True)
    say(f"note: left out, as they belong to parts that were replaced: {', '.join(left_out)}", error=True)


def _of_swapped_groups(found: dict[str, Any], config_name: str, given: Mapping[str, str]) -> Iterator[str]:
    """Settings of an experiment for an option of a config group that the command line has changed."""
    groups = [key for key in given if ("/" in key or "." not in key) and key not in ("experiment", "debug")]
    if not groups or not HydraConfig.get().runtime.choices.get("experiment"):
        return
    kept = [given["experiment"]] if "experiment" in given else []
    old, new = _choices(config_name, kept), _choices(config_name, list(given.values()))
    swapped = [g for g in groups if (g in old or g in new) and old.get(g) != new.get(g)]
    if not swapped:
        return
    removed = [word for word in given.values() if word.startswith("~")]
    before, after = _without_experiment(config_name, old), _without_experiment(config_name, new, removed)
    values = [key for key in given if key not in old and key not in new]
    for package in map(_package, swapped):
        here = _at(found, package)
        value = yield from _changed(here, _at(before, package), _at(after, package), package, values)
        _put(found, package, value)


def _changed(now: Any, old: Any, new: Any, key: str, by_hand: Sequence[str]) -> Generator[str, None, Any]:
    """`now` without what was set for `old` where `new` is another part."""
    if not isinstance(old, dict) or key in by_hand:
        return now
    if "_target_" in old and (not isinstance(new, dict) or old["_target_"] != new.get("_target_")):
        kept: Any = deepcopy(new)
        for name in [k.removeprefix(f"{key}.") for k in by_hand if k.startswith(f"{key}.")]:
            kept = kept if isinstance(kept, dict) else {}
            _put(kept, name, _at(now, name))
        stays = dict(_leaves(kept, key))
        yield from (name for name, value in _leaves(now, key) if name not in stays or stays[name] != value)
        return kept
    for name in list(now or {}):
        below = f"{key}.{name}"
        if name in old and name not in (new or {}) and not any(f"{k}.".startswith(f"{below}.") for k in by_hand):
            yield below
            del now[name]
        else:
            now[name] = yield from _changed(now[name], old.get(name), (new or {}).get(name), below, by_hand)
    return now


def _of_other_classes(found: dict[str, Any], config_name: str, given: Mapping[str, str]) -> Iterator[str]:
    """Settings that a class named in place of imtok's does not take."""
    base: dict[str, Any] | None = None
    nodes = [item for name in OWN_PARTS for item in class_nodes(found.get(name), name)]
    for key, node in nodes:
        typed = f"{key}._target_" in given
        if not typed and str(node["_target_"]).startswith("imtok."):
            continue
        accepted = inspect.signature(locate(node["_target_"], key=key)).parameters
        tiny = node.get("tiny") or {}
        for name in [name for name in tiny if name not in accepted]:
            del tiny[name]
        for name in list(node):
            if name in accepted or name.startswith("_") or name in HELPER_KEYS or f"{key}.{name}" in given:
                continue
            if not typed:  # an own YAML: what it sets itself may be a slip, and is for `build` to refuse
                base = base or _without_experiment(config_name, _choices(config_name, list(given.values())))
                if name not in (_at(base, key) or {}):
                    continue
            del node[name]
            yield f"{key}.{name}"


# -- compositions -----------------------------------------------------------------------------------------------------


def _choices(config_name: str, overrides: Sequence[str]) -> Choices:
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    loader = GlobalHydra.instance().config_loader()
    listed = loader.compute_defaults_list(config_name, [*_search_path(), *overrides], RunMode.RUN)
    found: Choices = {g: option for g, option in listed.overrides.known_choices.items() if not g.startswith("hydra/")}
    lists: dict[str, list[str]] = {}
    for default in listed.defaults:
        group, _, option = (default.config_path or "").rpartition("/")
        if group == default.package and group not in ("", "hydra"):
            lists.setdefault(group, []).append(option)
    several = {group: options for group, options in lists.items() if group not in found or len(options) > 1}
    return {group: option for group, option in (found | several).items() if option is not None}


def _without_experiment(config_name: str, choices: Choices, removed: Sequence[str] = ()) -> dict[str, Any]:
    """What the files of the chosen options alone say."""
    from hydra import compose

    words = [*_search_path(), "~experiment", *removed]
    for group, option in choices.items():
        if group != "experiment":
            package = _package(group)
            known = "@" not in group or any(package.startswith(f"{_package(other)}.") for other in choices)
            shown = f"[{','.join(option)}]" if isinstance(option, list) else option
            words.append(f"{'' if known else '+'}{group}={shown}")
    found: Any = OmegaConf.to_container(compose(config_name, overrides=words), resolve=False)
    return found


def _search_path() -> list[str]:
    return [word for word in HydraConfig.get().overrides.hydra if word.startswith("hydra.searchpath=")]


def _package(group: str) -> str:
    name, _, package = group.partition("@")
    return package or name.replace("/", ".")


# -- nested dicts -----------------------------------------------------------------------------------------------------


def _at(node: Any, key: str) -> Any:
    for name in key.split("."):
        node = node.get(name) if isinstance(node, dict) else None
    return node


def _put(node: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for name in path:
        node = node.setdefault(name, {})
    node[last] = value


def _leaves(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        yield key, node
    elif "tiny" not in key.split("."):
        for name, value in node.items():
            yield from _leaves(value, f"{key}.{name}")


def class_nodes(node: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping that names a class."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield key, node
        for name, child in node.items():
            yield from class_nodes(child, f"{key}.{name}")
