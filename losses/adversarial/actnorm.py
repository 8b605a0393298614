"""Activation normalisation of Glow (arXiv:1807.03039): an affine map that the first batch sets."""

from typing import Any

import torch
from torch import Tensor, nn

from ...common.distributed import mean_over_ranks


class ActNorm(nn.Module):
    """scale * (x + loc); the first training forward chooses both so that its output has mean 0 and deviation 1."""

    initialized: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, width, 1, 1))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.uint8))
        self._is_initialized = False  # the buffer's value; reading the buffer itself would wait for the GPU every time

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self._is_initialized:
            self._initialise(x)
        return self.scale * (x + self.loc)

    @torch.compiler.disable
    @torch.no_grad()
    def _initialise(self, x: Tensor) -> None:
        x = x.float()
        count = x.numel() / x.shape[1]
        # Moments of all processes together: parameters that differed between ranks would never become equal again.
        mean = mean_over_ranks(x.mean((0, 2, 3), keepdim=True))
        variance = mean_over_ranks((x - mean).square().mean((0, 2, 3), keepdim=True)) * count / max(count - 1, 1)
        self.loc.copy_(-mean)
        self.scale.copy_(1 / (variance.sqrt() + 1e-6))
        self.initialized.fill_(1)
        self._is_initialized = True

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._is_initialized = bool(self.initialized)
