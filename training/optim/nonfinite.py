"""Updates whose loss or gradient is not a finite number: left out on all ranks together, counted, and explained."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...common.distributed import all_finite
from ...common.errors import UserError

if TYPE_CHECKING:
    from ..module import TokenizerTraining


class NonFiniteGuard:
    """limit: updates in a row after which training stops. networks: their buffers are put back, see `BufferGuard`."""

    def __init__(self, *, limit: int, networks: Iterable[nn.Module | None]) -> None:
        self.limit = limit
        self.skipped = 0
        self.in_a_row = 0
        self.first_cause = ""
        self.networks = [n for n in networks if n is not None]
        self.buffers: BufferGuard | None = None

    def begin(self) -> None:
        """Before the first forward of an update; by then the networks are on their device."""
        self.buffers = self.buffers or BufferGuard(self.networks)
        self.buffers.keep()

    def passes(
        self,
        norms: Iterable[Tensor],
        losses: Mapping[str, Tensor],
        named_parameters: Iterable[tuple[str, nn.Parameter]],
    ) -> bool:
        """The one point of an update where the host waits for the device. A bad update is counted and undone."""
        if all_finite(*norms, *losses.values()):
            self.in_a_row = 0
            return True
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row == 1:
            self.first_cause = find_cause(losses, named_parameters)
        self.buffers.put_back()
        return False

    def check_limit(self, training: "TokenizerTraining", batch: Mapping[str, Any]) -> None:
        if self.in_a_row >= self.limit:
            stop(training, batch)


def find_cause(losses: Mapping[str, Tensor], named_parameters: Iterable[tuple[str, nn.Parameter]]) -> str:
    """What was not finite, losses first: a bad loss makes bad gradients everywhere."""
    bad = [name for name, value in losses.items() if not bool(torch.isfinite(value.detach()).all())]
    if bad:
        return f"the loss {', '.join(bad)}"
    for name, parameter in named_parameters:
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return f"the gradient of {name}"
    return "a number on another rank"


def stop(training: "TokenizerTraining", batch: Mapping[str, Any]) -> None:
    """Save the batch, say what is known, end the run."""
    guard, rank = training.guard, training.trainer.global_rank
    path = training.run_folder / f"nonfinite_batch_rank{rank}.pt"
    kept = {k: v.cpu() if isinstance(v, Tensor) else v for k, v in batch.items()}
    try:
        torch.save(kept, path)
        where = f"the last batch is in {path}"
    except (OSError, RuntimeError) as error:
        where = f"the batch could not be saved ({error})"
    weight = training.log_of_update.sums.get("gan_weight")
    gan = "" if weight is None else f" gan_weight={float(weight):.3g},"
    raise UserError(
        f"update {training.update}: {guard.in_a_row} updates in a row were not finite "
        f"(trainer.max_nonfinite={guard.limit}); first {guard.first_cause};{gan} precision={training.precision.name}, "
        f"lr={training.steppers['generator'].lr:.3g}; {where}. Try a lower optimizer.lr, trainer.clip=1.0, "
        "trainer.precision=fp32 or a lower adversary.weight, then ckpt_path=last"
    )


class BufferGuard:
    """A forward writes running means into buffers; those of a skipped update are put back."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.buffers = [b for m in modules for b in m.buffers()]
        self.kept = [b.detach().clone() for b in self.buffers]

    @torch.no_grad()
    def keep(self) -> None:
        if self.buffers:
            torch._foreach_copy_(self.kept, self.buffers)

    @torch.no_grad()
    def put_back(self) -> None:
        if self.buffers:
            torch._foreach_copy_(self.buffers, self.kept)
