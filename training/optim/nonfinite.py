"""Updates whose loss or gradient is not a finite number: left out on all ranks together, counted, and explained."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...common.distributed import finite_and_largest, own_shard


class NonFiniteGuard:
    """limit: updates in a row after which training stops.

    networks: a forward writes running means into their buffers; those of a skipped update are put back.
    """

    def __init__(self, *, limit: int, networks: Iterable[nn.Module | None]) -> None:
        self.limit = limit
        self.skipped = 0
        self.in_a_row = 0
        self.first_cause = ""
        self.asked = 0
        self.networks = [n for n in networks if n is not None]
        self.buffers: list[Tensor] = []
        self.kept: list[Tensor] = []

    def begin(self) -> None:
        """Before the first forward of an update; by then the networks are on their device."""
        if not self.buffers:
            self.buffers = [b.detach() for n in self.networks for b in n.buffers()]
            self.kept = [b.clone() for b in self.buffers]
        _copy(self.kept, self.buffers)

    def passes(
        self,
        norms: Iterable[Tensor],
        losses: Mapping[str, Tensor],
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        asked: int = 0,
    ) -> bool:
        """The one point of an update where the host waits for the device. A bad update is counted and undone.

        asked: what this process was asked to stop by; `self.asked` is then the same on all.
        """
        finite, self.asked = finite_and_largest(*norms, *losses.values(), number=asked)
        if finite:
            self.in_a_row = 0
            return True
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row == 1:
            self.first_cause = find_cause(losses, named_parameters)
        _copy(self.buffers, self.kept)
        return False

    @property
    def exhausted(self) -> bool:
        return self.in_a_row >= self.limit


def find_cause(losses: Mapping[str, Tensor], named_parameters: Iterable[tuple[str, nn.Parameter]]) -> str:
    """What was not finite, losses first: a bad loss makes bad gradients everywhere."""
    bad = [name for name, value in losses.items() if not bool(torch.isfinite(value.detach()).all())]
    if bad:
        return f"the loss {', '.join(bad)}"
    for name, parameter in named_parameters:
        if parameter.grad is not None and not bool(torch.isfinite(own_shard(parameter.grad)).all()):
            return f"the gradient of {name}"
    return "a number on another rank"


def advice(guard: NonFiniteGuard, batch: Mapping[str, Any], *, facts: Mapping[str, Any], save_to: Path) -> str:
    """What is known and what may help; the batch is saved for a closer look. facts: `precision`, `lr`, `gan_weight`."""
    kept = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in batch.items()}
    try:
        torch.save(kept, save_to)
        where = f"the last batch is in {save_to}"
    except (OSError, RuntimeError) as error:
        where = f"the batch could not be saved ({error})"
    gan = f" gan_weight={float(facts['gan_weight']):.3g}," if "gan_weight" in facts else ""
    return (
        f"{guard.in_a_row} updates in a row were not finite (trainer.max_nonfinite={guard.limit}); first "
        f"{guard.first_cause};{gan} precision={facts['precision']}, lr={facts['lr']:.3g}; {where}. Try a lower "
        "optimizer.lr, trainer.clip=1.0, trainer.precision=fp32 or a lower adversary.weight, then ckpt_path=last"
    )


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)
