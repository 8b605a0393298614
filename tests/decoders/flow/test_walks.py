"""Samplers, times and guidance against closed forms."""

import math

import pytest
import torch

from imtok.decoders.flow.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from imtok.decoders.flow.rectified import on_the_line, shifted, step_times, velocity_of_line, velocity_to
from imtok.decoders.flow.samplers import SAMPLERS, euler, heun


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_straight_lines_are_walked_exactly(sampler) -> None:
    data, noise = torch.randn(2, 1, 3, 4, 4, dtype=torch.float64)
    walked = sampler(noise, lambda x, t: velocity_of_line(data, noise), step_times(3, shift=2.0))
    torch.testing.assert_close(walked, data)


def test_order_of_the_samplers() -> None:
    """dx/dt = x from 1 at t = 1 is 1 / e at t = 0; halving the step halves Euler's error and quarters Heun's."""

    def error(sampler, steps: int) -> float:
        return abs(float(sampler(torch.ones(1).double(), lambda x, t: x, step_times(steps, shift=1.0))) - 1 / math.e)

    assert error(euler, 32) / error(euler, 64) == pytest.approx(2, rel=0.1)
    assert error(heun, 32) / error(heun, 64) == pytest.approx(4, rel=0.1)


def test_times_fall_from_one_to_zero_and_shift_keeps_the_ends() -> None:
    assert step_times(4, shift=1.0) == [1.0, 0.75, 0.5, 0.25, 0.0]
    times = step_times(4, shift=3.0)
    assert times[0] == 1.0
    assert times[-1] == 0.0
    assert times[2] == pytest.approx(3 * 0.5 / (1 + 2 * 0.5))
    assert shifted(0.5, 1 / 3) == pytest.approx(0.25)


def test_the_velocity_to_the_data_is_that_of_the_line() -> None:
    data, noise, times = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4), torch.tensor([0.3, 0.9])
    velocity = velocity_to(data, on_the_line(data, noise, times), times)
    torch.testing.assert_close(velocity, velocity_of_line(data, noise), atol=1e-5, rtol=1e-4)


def test_classifier_free_guidance() -> None:
    with_codes, without = torch.randn(2, 2, 3, 4, 4)
    guide = ClassifierFreeGuidance(scale=3.0).start()
    torch.testing.assert_close(guide(with_codes, without), without + 3 * (with_codes - without))


def test_projected_guidance_adds_only_what_is_orthogonal() -> None:
    with_codes, without = torch.randn(2, 2, 3, 4, 4)
    added = AdaptiveProjectedGuidance(scale=4.0).start()(with_codes, without) - with_codes
    inner = (added.double() * with_codes.double()).sum(dim=(1, 2, 3))
    torch.testing.assert_close(inner, torch.zeros(2).double(), atol=1e-4, rtol=0)
    assert (added.flatten(1).norm(dim=1) <= 3 * 2.5 + 1e-4).all()


def test_projected_guidance_with_everything_let_through_is_classifier_free() -> None:
    with_codes, without = torch.randn(2, 2, 3, 4, 4)
    guide = AdaptiveProjectedGuidance(scale=3.0, momentum=0.0, threshold=1e9, parallel=1.0).start()
    plain = ClassifierFreeGuidance(scale=3.0).start()
    torch.testing.assert_close(guide(with_codes, without), plain(with_codes, without))


def test_every_walk_has_a_memory_of_its_own() -> None:
    with_codes, without = torch.randn(2, 2, 3, 4, 4)
    guidance = AdaptiveProjectedGuidance(scale=3.0, threshold=1e9)
    guide = guidance.start()
    first = guide(with_codes, without)
    assert not torch.equal(guide(with_codes, without), first)
    assert torch.equal(guidance.start()(with_codes, without), first)
