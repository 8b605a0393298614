"""The overrides that a run wrote down, checked before another takes them over: they may come from a stranger."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from ..common.build import locate
from ..common.errors import UserError
from ..common.loaded_config import OPEN_MAPPINGS
from ..configs.compose import TOP_LEVEL

CONFIGS = Path(__file__).parent.parent / "configs"
REMEDY = "give trust=true if you know who made this run"


def check_recorded(overrides: Sequence[str], *, source: Path) -> None:
    """UserError for the first override through which the record would run other code than imtok's."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for text in overrides:
        try:
            if text.startswith("-"):
                raise ValueError
            override = parser.parse_override(text)
            key, value = override.key_or_group, override.value()
            reasons = [_of_key(key, override.package, value), *(_of_value(*item) for item in _items(_path(key), value))]
        except (HydraException, ValueError, TypeError, RecursionError):
            reasons = ["not readable as one setting"]
        if reason := next(filter(None, reasons), None):
            shown = printable(text)
            shown = shown if len(shown) <= 120 else f"{shown[:117]}..."
            raise UserError(f"ckpt_path: {source} records {shown} ({reason}); take it out of that file, or {REMEDY}")


def _of_key(key: str, package: str | None, value: Any) -> str | None:
    if re.match(r"hydra\b", key) or re.match(r"hydra\b", package or ""):
        return "a setting of Hydra itself"
    if package or "/" in key or ("." not in key and key not in TOP_LEVEL):  # chooses files of a config group
        names = (key, *(item for _, item in _items(("",), value) if isinstance(item, str)))
        if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in names):
            return "leaves the folder of the configs"
    return None


def _of_value(path: tuple[str, ...], value: Any) -> str | None:
    """path: of keys, outermost first."""
    text = value if isinstance(value, str) else ""
    if "${" in text and ":" in text.partition("${")[2]:
        return "asks a resolver"
    if any("_target_" in name for name in path):
        return _of_class(text)
    for name, allowed in OPEN_MAPPINGS.items():
        if path[-1] == name and isinstance(value, str):
            return f"{name} from elsewhere"
        if name in path[:-1] and path[path.index(name) + 1] not in allowed:
            return f"{path[path.index(name) + 1]} is an argument that goes to another library"
    return None


def _of_class(target: str) -> str | None:
    if target in our_loggers():
        return None
    with suppress(UserError, ValueError, RecursionError):  # the class's own home counts, not the path written down
        if target.startswith("imtok.") and locate(target, key="").__module__.startswith("imtok."):
            return None
    return "no class of imtok, and no logger of configs/logger/"


@cache
def our_loggers() -> frozenset[str]:
    files = (CONFIGS / "logger").glob("*.yaml")
    return frozenset(node["_target_"] for file in files for node in yaml.safe_load(file.read_text()).values())


def _path(key: str) -> tuple[str, ...]:
    return tuple(re.split(r"[.\[\]]+", key.strip("]")))


def _items(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every path of keys and its value, mappings and lists among them."""
    if not isinstance(value, bool | int | float | str | dict | list | None):
        raise TypeError("a sweep or another function of Hydra's")
    yield path, value
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _items((*path, *_path(str(name))), item)
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _items((*path, str(number)), item)


def printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
