"""Rectified flow (Liu et al., arXiv 2209.03003): straight lines from data (t = 0) to noise (t = 1)."""

import math

import torch
from torch import Tensor


def on_the_line(data_BCHW: Tensor, noise_BCHW: Tensor, times_B: Tensor) -> Tensor:
    """x_t = (1 - t) data + t noise."""
    t = times_B.view(-1, 1, 1, 1)
    return (1 - t) * data_BCHW + t * noise_BCHW


def velocity_of_line(data_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
    """dx/dt."""
    return noise_BCHW - data_BCHW


def velocity_to(data_BCHW: Tensor, x_BCHW: Tensor, times_B: Tensor, *, least_time: float = 0.05) -> Tensor:
    """Of the line through x at time t that ends at the data; bounded near t = 0, as in arXiv 2511.13720."""
    return (x_BCHW - data_BCHW) / times_B.clamp(min=least_time).view(-1, 1, 1, 1)


def logit_normal_times(batch: int, *, mean: float, deviation: float, device: torch.device) -> Tensor:
    """Training times: the sigmoid of a normal (Stable Diffusion 3, arXiv 2403.03206, eq. 19)."""
    return torch.sigmoid(mean + deviation * torch.randn(batch, device=device))


def shifted(t: float, shift: float) -> float:
    """Above 1: more steps near the noise, as larger images need (arXiv 2403.03206, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


def step_times(steps: int, *, shift: float) -> list[float]:
    """From 1 down to 0, steps + 1 of them."""
    return [shifted(step / steps, shift) for step in range(steps, -1, -1)]


def time_waves(times_B: Tensor, size: int) -> Tensor:
    """[B, size]: cosines, then sines, of 1000 t over periods that grow up to 256-fold, as FlexTok has them."""
    half = size // 2
    frequencies = 1000.0 * torch.exp(-math.log(256) * torch.arange(half, device=times_B.device) / half)
    angles = times_B.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)
