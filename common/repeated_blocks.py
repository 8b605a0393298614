"""The repeated blocks of a network: the units that are sharded, and whose activations are computed again."""

from collections import Counter
from collections.abc import Iterable, Iterator

from torch import nn

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


def repeated_blocks(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Items of lists and sequences whose class is there more than once in `module`; none within another."""
    classes = Counter(type(part) for part in module.modules())
    yield from _blocks_below(module, "", classes)


def _blocks_below(module: nn.Module, path: str, classes: Counter[type[nn.Module]]) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        inside = f"{path}{name}"
        repeated = isinstance(module, CONTAINERS) and classes[type(child)] > 1
        if repeated and not isinstance(child, CONTAINERS) and any(True for _ in child.children()):
            yield inside, child
        else:
            yield from _blocks_below(child, f"{inside}.", classes)


def without_shared(blocks: Iterable[tuple[str, nn.Module]], module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Those whose parameters no other part of `module` uses."""
    owners = Counter(id(p) for part in module.modules() for p in part.parameters(recurse=False))
    return [(n, b) for n, b in blocks if all(owners[id(p)] == 1 for p in b.parameters())]
