"""May a codebook learn from this batch?"""

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def finite_on_all_processes(z: Tensor) -> bool:
    """One inf or NaN among the vectors would stay in the codebook for good. The processes agree, or they would hang."""
    finite = torch.isfinite(z).all().int()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(finite, op=dist.ReduceOp.MIN)
    return bool(finite)
