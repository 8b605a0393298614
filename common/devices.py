"""Tensors from the host to a device."""

import torch
from torch import Tensor


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """On `device`, without the host waiting until the device has done what it was given before."""
    if tensor.device.type == "cpu" and device.type == "cuda" and torch.cuda.is_available():
        tensor = tensor.pin_memory()  # from pageable memory it would wait
    return tensor.to(device, non_blocking=True)
