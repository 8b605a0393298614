"""A network that is used and not trained: it moves with its owner and is in no state dict, optimizer or export."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn


class Frozen(nn.Module):
    """Holds `module` outside the module tree, in eval mode and without gradients; calls and attributes go to it.

    `self.net = Frozen(LPIPSNet())` is all that its owner does; `.to` reaches the network, `state_dict`, `parameters`
    and `train` do not.
    """

    module: nn.Module

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__["module"] = module.requires_grad_(False).eval()
        super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def train(self, mode: bool = True) -> "Frozen":
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Frozen":
        self.module._apply(fn, recurse)
        return self

    def __getattr__(self, name: str) -> Any:
        if "module" not in self.__dict__:  # while it is being copied
            raise AttributeError(name)
        return getattr(self.module, name)


def modules_within(module: nn.Module) -> Iterator[nn.Module]:
    """Like `module.modules()`, frozen networks included."""
    for part in module.modules():
        yield part
        if isinstance(part, Frozen):
            yield from modules_within(part.module)


def frozen_networks(module: nn.Module) -> list[nn.Module]:
    """Those that `module` holds, not what these hold in turn."""
    return [part.module for part in module.modules() if isinstance(part, Frozen)]
