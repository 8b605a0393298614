"""An experiment's tokenizer in the sizes of stored weights: settings are the experiment's, sizes the file's."""

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ..common.build import locate
from .rows import Row

Node = dict[str, Any]
FLOATING_SIZES = ("mlp_ratio",)
STARTS = ("pretrained", "weights", "tiny")  # where training would start; the stored weights are loaded instead


def sized(
    own: Mapping[str, Any],
    found: Mapping[str, Any],
    key: str = "tokenizer",
    *,
    as_stored: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Node, list[Row]]:
    """(the node to build, a row for each setting in which the two differ).

    own: of the experiment. found: of the weights' reader. Integers, and lists of them, are sizes.
    as_stored: settings in which the weights are followed, with the reason.
    """
    node: Node = {}
    rows: list[Row] = []
    target = own.get("_target_", found.get("_target_"))
    if target is not None and target != found.get("_target_", target):
        rows.append(Row(f"{key}._target_", False, f"{target}, by the weights {found['_target_']}"))
        target = found["_target_"]
    defaults = _defaults(target, key) if target is not None else {}
    for name, there in found.items():
        here = own.get(name, defaults.get(name))
        if isinstance(there, Mapping):
            node[name], more = sized(own.get(name) or {}, there, f"{key}.{name}", as_stored=as_stored)
            rows += more
        elif name == "_target_":
            node[name] = target
        elif _is_size(name, there) and _is_size(name, here):
            node[name] = there
        elif f"{key}.{name}" in as_stored:
            node[name] = there
            rows.append(Row(f"{key}.{name}", True, f"{here}, by the weights {there}", as_stored[f"{key}.{name}"]))
        else:
            if name in own:
                node[name] = own[name]
            if here != there:
                rows.append(Row(f"{key}.{name}", False, f"{here}, by the weights {there}"))
    kept = {name: value for name, value in own.items() if name not in found and _is_setting(name, value)}
    return node | kept, rows


def _defaults(target: str, key: str) -> dict[str, Any]:
    parameters = inspect.signature(locate(target, key=key)).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _is_size(name: str, value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_size(name, item) for item in value)
    return value is None or name in FLOATING_SIZES or (isinstance(value, int) and not isinstance(value, bool))


def _is_setting(name: str, value: Any) -> bool:
    """Of what only the experiment says: all but sizes, which the class then works out."""
    return name not in STARTS and (isinstance(value, Mapping) or value is None or not _is_size(name, value))
