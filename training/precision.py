"""Autocast on the device at hand, and a loss scale for fp16. Parameters stay fp32; Lightning's own precision is off."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from ..configs.errors import UserError

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """name: fp32, bf16 or fp16."""

    def __init__(self, *, name: str, device: torch.device) -> None:
        self.name, self.device, self.dtype = name, device, DTYPES[name]
        if self.dtype is not None:
            self._try()

    def autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device.type, dtype=self.dtype) if self.dtype else nullcontext()

    def scaler(self) -> torch.amp.GradScaler | None:
        """One an optimizer: an overflow in the discriminator must not shrink the generator's scale."""
        return torch.amp.GradScaler(self.device.type) if self.dtype is torch.float16 else None

    def _try(self) -> None:
        """A convolution and a product, there and back, before the first batch does."""
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                probe = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4)).to(self.device)
            with torch.random.fork_rng(devices=[]), self.autocast():
                probe(torch.zeros(1, 3, 8, 8, device=self.device)).float().sum().backward()
        except (RuntimeError, NotImplementedError, TypeError) as error:
            works = "fp32" if self.name == "bf16" else "bf16 or fp32"
            raise UserError(
                f"trainer.precision={self.name}: {self.device.type} here cannot compute in it ({error}); use {works}"
            ) from error
