"""The norm of a network's gradients and their clipping to it, also where gradients are sharded."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from ...common.distributed import is_sharded, own_shard, sum_over_processes


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """On the device, the same on all processes."""
    whole = get_total_norm([g for g in gradients if not is_sharded(g)])
    sharded = [own_shard(g) for g in gradients if is_sharded(g)]
    if not sharded:
        return whole
    squares = sum_over_processes(get_total_norm(sharded).square())
    return (squares + whole.to(squares.device).square()).sqrt()


@torch.no_grad()
def scale_down(gradients: Sequence[Tensor], *, norm: Tensor, largest: float) -> None:
    """torch.nn.utils.clip_grads_with_norm_, in place, of whatever share of the gradients is here."""
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([own_shard(g) for g in gradients], factor)
