"""Averages over processes that also work with one."""

import torch.distributed as dist
from torch import Tensor


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of every process's tensor, without gradient; the tensor itself when there is one process."""
    value = value.detach()
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return value
    value = value.clone()
    dist.all_reduce(value)  # a sum: gloo has no average
    return value / dist.get_world_size()
