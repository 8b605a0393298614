"""Taps: activations inside the tokenizer, for loss terms that name a module's path."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..common.errors import UserError


class FeatureTaps:
    """Filled by forward hooks while training, emptied by `collect`; not a module, so no export knows of it."""

    def __init__(self) -> None:
        self._seen: dict[str, Tensor] = {}
        self._hooks: dict[str, Any] = {}

    def add(self, name: str, module: nn.Module) -> None:
        """`module`'s output (its first, if it gives several) will be features[name]."""
        if name in self._hooks:
            return

        def keep(_module: nn.Module, _inputs: tuple, output: Any) -> None:
            self._seen[name] = output[0] if isinstance(output, tuple) else output

        self._hooks[name] = module.register_forward_hook(keep)

    def collect(self) -> dict[str, Tensor]:
        seen, self._seen = self._seen, {}
        return seen


def tap(tokenizer: nn.Module, wanted: Mapping[str, str], *, key: str) -> None:
    """Tap modules of the tokenizer; wanted: {feature name: path of a module, such as decoder.blocks.2}."""
    for name, path in wanted.items():
        try:
            module = tokenizer.get_submodule(path)
        except AttributeError:
            children = ", ".join(n for n, _ in tokenizer.named_children())
            raise UserError(f"{key}={path}: this tokenizer has no such module; paths begin with {children}") from None
        assert isinstance(tokenizer.taps, FeatureTaps)
        tokenizer.taps.add(name, module)
