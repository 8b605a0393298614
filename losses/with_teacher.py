"""A loss term that holds a frozen teacher without owning it."""

from collections.abc import Callable

from torch import Tensor

from .base import LossTerm
from .teachers.base import SemanticTeacher


class WithTeacher(LossTerm):
    """teacher: a name of cfg.teacher; `self.network` is that teacher from `learn_from` on.

    Hidden from the module tree: no checkpoint, export or optimizer finds it, but it moves with `.to`.
    """

    def __init__(self, *, teacher: str) -> None:
        super().__init__()
        self.teacher = teacher

    def learn_from(self, teacher: SemanticTeacher) -> None:
        self.__dict__["network"] = teacher

    @property
    def weights_are_random(self) -> bool:
        return self.network.weights_are_random

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "WithTeacher":
        if "network" in self.__dict__:
            self.network._apply(fn)
        return super()._apply(fn, recurse)
