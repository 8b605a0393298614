"""Ranks, sums, gathers and broadcasts over the processes of a run; each also works with one process."""

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def process_count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def wait_for_all() -> None:
    if process_count() > 1:
        dist.barrier()


def sum_over_processes(tensor: Tensor, operation: str = "SUM") -> Tensor:
    """In place; every rank ends with the same bits. operation: MIN or MAX take those instead of the sum."""
    if process_count() > 1:
        dist.all_reduce(tensor, op=getattr(dist.ReduceOp, operation))
    return tensor


class _JoinedSum(torch.autograd.Function):
    """Every process's result depends on every process's input, so the gradient is the sum of all their gradients.

    Own because torch.distributed.nn.functional.all_reduce is deprecated and what it points to is a private module. DDP
    then averages gradients over processes, which makes that of a loss of the joined mean what one process would get on
    the joined batch.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return sum_over_processes(x.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return sum_over_processes(grad.clone(memory_format=torch.contiguous_format))


def joined_sum(x: Tensor) -> Tensor:
    """The sum over processes with its gradient; `x` itself where there is one."""
    return _JoinedSum.apply(x) if process_count() > 1 else x


def is_sharded(tensor: Tensor) -> bool:
    """Whether other processes hold the rest of it; by its method, since DTensor's module takes long to import."""
    return hasattr(tensor, "to_local")


@torch.no_grad()
def own_shard(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, without gradient; all of it where it is not sharded."""
    return tensor.detach().to_local() if is_sharded(tensor) else tensor.detach()  # type: ignore[attr-defined]


def gather_objects(own: T) -> list[T]:
    """What every process holds, in the order of ranks; anything that can be pickled, its tensors on the CPU."""
    if process_count() == 1:
        return [own]
    found: list[Any] = [None] * process_count()
    dist.all_gather_object(found, own)
    return found


def gather_over_processes(tensor: Tensor) -> Tensor:
    """Rows of all ranks, in the order of ranks; the ranks must hold equally many."""
    if process_count() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(process_count())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def gather_equal_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks; where ranks hold unequal batches, as many of each as the smallest has."""
    if process_count() == 1:
        return rows
    fewest = sum_over_processes(torch.tensor(len(rows), device=rows.device), "MIN")
    return gather_over_processes(rows[: int(fewest)])


def from_first_process(tensor: Tensor) -> Tensor:
    """Rank 0's values on every rank, for whatever is drawn at random."""
    if process_count() > 1:
        tensor = tensor.contiguous()
        dist.broadcast(tensor, src=0)
    return tensor


@torch.no_grad()
def all_finite(*tensors: Tensor) -> Tensor:
    """1 where all values of all processes are finite, else 0.

    On the device, to multiply a rate with: codebooks skip such a batch, and the host need not wait for the answer.
    """
    return sum_over_processes(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all().float(), "MIN")


@torch.no_grad()
def finite_and_largest(*scalars: Tensor, number: int) -> tuple[bool, int]:
    """(whether all scalars of all processes are finite, the largest `number` of any): the host waits once for both."""
    finite = torch.isfinite(torch.stack([scalar.float() for scalar in scalars])).all().float()
    least = sum_over_processes(torch.stack([finite, torch.full_like(finite, -number)]), "MIN").tolist()
    return bool(least[0]), -int(least[1])


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of every process's tensor, without gradient."""
    return sum_over_processes(value.detach().clone()) / process_count()  # a sum: gloo has no average


class _RowsOfAll(torch.autograd.Function):
    """A row takes part in the losses of all processes, and its gradient is the sum of what they find."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return gather_over_processes(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return sum_over_processes(grad.clone(memory_format=torch.contiguous_format)).chunk(process_count())[rank()]


def rows_of_all(rows: Tensor) -> Tensor:
    """Joined batch of ranks that hold equally many rows, with its gradient; `rows` itself where there is one."""
    if process_count() == 1:
        return rows
    if not rows.is_floating_point():
        return gather_over_processes(rows.to(torch.uint8)).to(rows.dtype)
    return _RowsOfAll.apply(rows)
