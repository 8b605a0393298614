"""ODE solvers from noise to an image along a velocity field; times fall from 1 to 0."""

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]  # (x, t) -> dx/dt


def euler(x: Tensor, velocity: Velocity, times: Sequence[float]) -> Tensor:
    """One evaluation per step."""
    for now, after in pairwise(times):
        x = x + (after - now) * velocity(x, now)
    return x


def heun(x: Tensor, velocity: Velocity, times: Sequence[float]) -> Tensor:
    """Two evaluations per step, the second where Euler's would end; the step takes their mean (second order)."""
    for now, after in pairwise(times):
        here = velocity(x, now)
        there = velocity(x + (after - now) * here, after)
        x = x + (after - now) * (here + there) / 2
    return x


SAMPLERS: dict[str, Callable[[Tensor, Velocity, Sequence[float]], Tensor]] = {"euler": euler, "heun": heun}
