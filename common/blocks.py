"""The blocks of a network: the units that are sharded, and whose activations are computed again."""

from collections import Counter
from collections.abc import Iterator

from torch import nn


def blocks_of(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Items of its lists and sequences that are made of several modules themselves; none within another.

    Names are relative to `module`, after `path`.
    """
    for name, child in module.named_children():
        is_item = isinstance(module, (nn.ModuleList, nn.Sequential))
        is_list = isinstance(child, (nn.ModuleList, nn.ModuleDict, nn.Sequential))
        if is_item and not is_list and any(True for _ in child.children()):
            yield f"{path}{name}", child
        else:
            yield from blocks_of(child, f"{path}{name}.")


def shared_parameters(module: nn.Module) -> set[int]:
    """`id` of those that stand in two places."""
    places = Counter(id(p) for part in module.modules() for p in part._parameters.values() if p is not None)
    return {key for key, count in places.items() if count > 1}
