"""Readers of the weights that others published: one file per family, nothing but key maps and checks.

A family file defines one subclass of ReleasedFamily; it is found here by being in this folder.
"""

import importlib
import pkgutil
from inspect import isabstract
from typing import Any

from ...common.errors import UserError, did_you_mean
from .base import ImportReport, ReleasedFamily

__all__ = ["ImportReport", "ReleasedFamily", "families", "find", "systems"]


def families() -> list[ReleasedFamily]:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return [cls() for cls in _subclasses(ReleasedFamily) if not isabstract(cls)]


def systems() -> list[str]:
    """Names accepted by `imtok import-weights --system` and by `imtok parity`."""
    return sorted(name for family in families() for name in family.systems)


def find(system: str) -> ReleasedFamily:
    for family in families():
        if system in family.systems:
            return family
    raise UserError(f"system {system!r} is not one that imtok reads; {did_you_mean(system, systems())}")


def _subclasses(cls: type[Any]) -> list[type[ReleasedFamily]]:
    return [found for child in cls.__subclasses__() for found in (child, *_subclasses(child))]
