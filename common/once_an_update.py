"""State that moves once an update, though the forward runs once for each of its micro-batches."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


class MovesOnceAnUpdate:
    """A module with running means, counts or codes that its forward moves: codebooks, revival, LeCam.

    Between begin_update and finish_update nothing moves: what the micro-batches bring is kept, and joined along the
    first dimension at the end. Elsewhere (an update of one micro-batch, or no training) it moves in the forward.
    """

    _kept: dict[str, tuple[Callable[..., None], list[tuple[Tensor, ...]]]] | None = None

    def once_an_update(self, move: Callable[..., None], *tensors: Tensor) -> None:
        if self._kept is None:
            move(*tensors)
        else:
            self._kept.setdefault(move.__name__, (move, []))[1].append(tensors)

    def begin_update(self) -> None:
        self._kept = {}

    def finish_update(self) -> None:
        kept, self._kept = self._kept or {}, None
        for move, given in kept.values():
            move(*(torch.cat(parts) for parts in zip(*given, strict=True)))


def parts_that_move(*networks: nn.Module | None) -> Iterator[MovesOnceAnUpdate]:
    for network in networks:
        for module in network.modules() if network is not None else ():
            if isinstance(module, MovesOnceAnUpdate):
                yield module
