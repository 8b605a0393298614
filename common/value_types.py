"""Holds a value from YAML against the annotation of the argument it is meant for."""

import re
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .errors import UserError

WANTED = {
    int: "a whole number",
    float: "a number",
    str: "a text (in quotes, if it looks like a number)",
    bool: "true or false",
}


def what_it_takes(annotation: Any, value: Any) -> str | None:
    """None where `value` fits; otherwise what would fit, in words. Annotations that say little let everything pass."""
    if not (value is None or isinstance(value, int | float | str | Sequence | Mapping)):
        return None  # built already, or given by Python code: YAML has no such value
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        wishes = [what_it_takes(choice, value) for choice in inner]
        if None in wishes:
            return None
        return " or ".join(dict.fromkeys(wish for wish in wishes if wish))
    if annotation is type(None):
        return None if value is None else "null"
    if annotation in WANTED:
        return None if _fits(annotation, value) else _wanted(annotation, value)
    if origin is Literal:
        return None if value in inner else "one of " + ", ".join(map(str, inner))
    if origin in (Sequence, list, tuple):
        items = [kind for kind in inner if kind is not Ellipsis]
        named = {WANTED.get(kind, "values") for kind in items}
        wish = f"a list, each {named.pop()}" if len(named) == 1 and items[0] in WANTED else "a list"
        if isinstance(value, str) or not isinstance(value, Sequence):
            return wish
        if len(items) == 1 and any(what_it_takes(items[0], item) for item in value):
            return wish
    if origin in (Mapping, dict) and not isinstance(value, Mapping):
        return "settings by name"
    return None


def check_values(values: Mapping[str, Any], annotations: Mapping[str, Any], *, key: str) -> None:
    """UserError for the first value that does not fit; `key` is the node's place in the YAML, empty at the top."""
    for name, value in values.items():
        wanted = what_it_takes(annotations.get(name, Any), value)
        if wanted:
            raise UserError(f"{key}.{name}={value}: {wanted}".removeprefix("."))


def annotations_of(function: Any) -> dict[str, Any]:
    """Empty where they cannot be resolved (names imported for type checkers only)."""
    try:
        return get_type_hints(function)
    except Exception:
        return {}


def _wanted(kind: type, value: Any) -> str:
    exponent = kind is float and isinstance(value, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", value)
    return WANTED[kind] + (" (YAML reads 1e-4 as text, 1.0e-4 as a number)" if exponent else "")


def _fits(kind: type, value: Any) -> bool:
    if isinstance(value, bool):  # an int to Python
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)
