"""The batches of all processes joined, with gradients, so that contrastive losses see every negative."""

import torch
from torch import Tensor

from ..tokenizers.quantizers.processes import gather_over_processes, process_count


def of_all_processes(x_B: Tensor) -> Tensor:
    """Joined batch; gradients reach a process's own part only, so that their average over processes is the whole's."""
    if process_count() == 1:
        return x_B
    if not x_B.is_floating_point():
        return gather_over_processes(x_B.to(torch.uint8)).to(x_B.dtype)
    rows = list(gather_over_processes(x_B.detach()).chunk(process_count()))
    # Every process computes the whole loss and so its own part's whole gradient, which averaging divides by the number.
    rows[torch.distributed.get_rank()] = x_B.detach() + (x_B - x_B.detach()) * process_count()
    return torch.cat(rows)
