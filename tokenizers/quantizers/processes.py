"""Sums and choices shared by all processes of a run, so that codebooks stay equal on every rank."""

import torch
import torch.distributed as dist
from torch import Tensor


def process_count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_processes(tensor: Tensor) -> Tensor:
    """In place; every rank ends with the same bits."""
    if process_count() > 1:
        dist.all_reduce(tensor)
    return tensor


def mean_over_processes(tensor: Tensor) -> Tensor:
    """In place."""
    return sum_over_processes(tensor).div_(process_count())


def gather_over_processes(tensor: Tensor) -> Tensor:
    """Rows of all ranks, in the order of ranks; the ranks must hold equally many."""
    if process_count() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(process_count())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def from_first_process(tensor: Tensor) -> Tensor:
    """Rank 0's values on every rank, for whatever is drawn at random."""
    if process_count() > 1:
        tensor = tensor.contiguous()
        dist.broadcast(tensor, src=0)
    return tensor
