"""Gradients averaged over processes once an update, each network's own: a DDP around every objective.

One DDP around everything would reduce the tokenizer a second time in the discriminator's backward. Buffers are sent to
all processes once, before the first update: quantizers and LeCam keep theirs equal themselves, and batch norm in a
discriminator only ever reads those of the batch at hand (rank 0's running means are the ones saved).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..common.distributed import process_count, sum_over_processes
from ..common.errors import UserError
from ..losses.total import WeightedLosses
from .objectives import InOneProcess, Made

SEARCHING, TRUSTING = "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"
# Their modules use the same parameters in every update.
STEADY_PACKAGES = {"imtok", "torch", "timm", "open_clip", "vector_quantize_pytorch"}


class PerNetworkDDP(DDPStrategy):
    """Lightning's processes and devices, without its DDP around the whole module.

    search: whether every update looks for parameters without a gradient; None: where there may be some.
    """

    def __init__(self, *, search: bool | None = None) -> None:
        super().__init__()
        self.search = search

    def configure_ddp(self) -> None:
        """The objectives are wrapped one by one, when a checkpoint has been filled in."""

    def wrapped(self, objective: nn.Module) -> "InProcesses":
        return InProcesses(objective, search=self.search)


class InProcesses(InOneProcess):
    """An objective whose gradients are averaged over processes during its backward.

    Which parameters get one is seen in the first update, whose gradients are averaged after its backward. Where all do,
    and nothing in the YAML can change that, no later update searches its graph and agrees with the others on what it
    found. Where not, DDP does, and leaves the gradient of a parameter that nobody used at None.
    """

    def __init__(self, objective: nn.Module, *, search: bool | None) -> None:
        super().__init__(objective)
        self.search = may_vary(objective) if search is None else search
        self.seen_once = False
        self.wrap()

    def wrap(self) -> None:
        self.ddp = DistributedDataParallel(
            self.objective,
            find_unused_parameters=self.search,
            gradient_as_bucket_view=True,
            init_sync=not self.seen_once,
        )
        self.ddp.broadcast_buffers = False  # before every forward; as an argument it would leave out the first time too
        self.trained = [(n, p) for n, p in self.objective.named_parameters() if p.requires_grad]

    def __call__(self, *given: Any, last: bool = True) -> tuple[Tensor, Made]:
        with nullcontext() if last and self.seen_once else self.ddp.no_sync():
            return self.ddp(*given)

    def finish(self) -> None:
        if not self.seen_once:
            self.seen_once = True
            average([p for _, p in self.trained])
            if not self.search and any(p.grad is None for _, p in self.trained):
                self.search = True
                self.wrap()
            return
        if not self.search and (missing := [name for name, p in self.trained if p.grad is None]):
            raise UserError(
                f"trainer.strategy: {missing[0]} had a gradient in the first update and has none in this one, so "
                f"processes wait for each other; set trainer.strategy={SEARCHING}"
            )


@torch.no_grad()
def average(parameters: Sequence[nn.Parameter]) -> None:
    """Their gradients over all processes, as DDP does; where no process has one it stays None."""
    has_grad = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
    anywhere = sum_over_processes(has_grad.to(parameters[0].device), "MAX").tolist()
    for parameter, used in zip(parameters, anywhere, strict=True):
        if used:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            mean = parameter.grad.contiguous() / process_count()
            parameter.grad.copy_(sum_over_processes(mean))


def may_vary(objective: nn.Module) -> bool:
    """Whether parameters may get a gradient in one update and none in another: a class of someone else's, or a loss
    term with parameters of its own whose weight is 0 for a while."""
    for module in objective.modules():
        if type(module).__module__.split(".")[0] not in STEADY_PACKAGES:
            return True
        if isinstance(module, WeightedLosses):
            for name, term in module.terms.items():
                ends = (module.weights[name].start, module.weights[name].end)
                if any(p.requires_grad for p in term.parameters()) and min(ends) <= 0 <= max(ends) and any(ends):
                    return True
    return False
