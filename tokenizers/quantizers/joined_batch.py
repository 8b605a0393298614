"""The sum over the batches of all training processes, with its gradient."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _JoinedSum(torch.autograd.Function):
    """Every process's result depends on every process's input, so the gradient is the sum of all their gradients.

    Own because torch.distributed.nn.functional.all_reduce is deprecated and what it points to is a private module. DDP
    then averages gradients over processes, which makes that of a loss of the joined mean what one process would get on
    the joined batch.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad)
        return grad


def joined_sum(x: Tensor) -> Tensor:
    """`x` itself where there is one process; the same bits on every rank where there are several."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return _JoinedSum.apply(x) if several else x
