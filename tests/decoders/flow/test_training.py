"""How a flow decoder begins and trains: times, dropped codes, first weights, against what their settings say."""

import math

import pytest
import torch

from imtok.common.types import Stream
from imtok.decoders.flow.decoder import FlowDecoder
from imtok.decoders.flow.guidance import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from imtok.decoders.flow.rectified import logit_normal_times, time_waves, velocity_to
from imtok.layers.located_start import sincos_places
from imtok.layers.patches import sincos_grid
from imtok.layers.prefix_places import prefix_places

SIZES = {"dim": 4, "num_tokens": 6, "input_size": (8, 8), "patch_size": 4, "width": 32, "depth": 1, "head_dim": 16}


def decoder(**changes: object) -> FlowDecoder:
    torch.manual_seed(0)
    return FlowDecoder(**(SIZES | {"time_waves": 16} | changes))


def stream(batch: int) -> dict[str, Stream]:
    return {"main": Stream(torch.randn(batch, 6, 4, requires_grad=True))}


def test_waves_of_the_time_are_cosines_then_sines_of_falling_frequencies() -> None:
    expected = [[f(1000 * t / 256 ** (k / 4)) for f in (math.cos, math.sin) for k in range(4)] for t in (0.0, 0.3, 1.0)]
    torch.testing.assert_close(time_waves(torch.tensor([0.0, 0.3, 1.0]), 8), torch.tensor(expected), atol=2e-4, rtol=0)


def test_the_velocity_to_the_data_is_bounded_near_the_data() -> None:
    data, x = torch.randn(2, 2, 3, 4, 4)
    torch.testing.assert_close(velocity_to(data, x, torch.tensor([0.01, 0.05])), (x - data) * 20)


def test_training_times_are_the_sigmoid_of_their_normal() -> None:
    torch.manual_seed(0)
    logits = logit_normal_times(40_000, mean=0.7, deviation=1.5, device=torch.device("cpu")).double().logit()
    assert float(logits.mean()) == pytest.approx(0.7, abs=0.03) and float(logits.detach().std()) == pytest.approx(
        1.5, rel=0.02
    )


def test_a_loss_is_taken_at_the_times_of_the_settings() -> None:
    made, seen = decoder(time_mean=math.log(3.0), time_deviation=0.0), []
    made.time.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    made.training_losses(stream(5), torch.randn(5, 3, 8, 8))
    torch.testing.assert_close(seen[0], time_waves(torch.full((5,), 0.75), 16), atol=1e-3, rtol=0)


def test_a_share_of_the_samples_trains_without_codes() -> None:
    made, given = decoder(condition_dropout=0.25), stream(600)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    made.training_losses(given, torch.randn(600, 3, 8, 8))["velocity"].backward()
    shown = given["main"].x_BND.grad.ne(0).flatten(1).any(dim=1)
    assert float(shown.float().mean()) == pytest.approx(0.75, abs=0.06)
    assert bool(made.no_codes.grad.any())


def test_settings_of_the_first_weights() -> None:
    wide = {"width": 256, "num_tokens": 64}
    plain = decoder(**wide, position_std=0.5)
    assert float(plain.token_positions.detach().std()) == pytest.approx(0.5, rel=0.05)
    assert float(plain.mask_vector.detach().std()) == pytest.approx(0.02, rel=0.2)
    assert float(plain.no_codes.detach().std()) == pytest.approx(0.02, rel=0.2)
    assert torch.equal(plain.positions_ND, sincos_grid((2, 2), 256))
    torch.testing.assert_close(decoder(patch_gain=0.2).patches.weight, 0.2 * decoder().patches.weight)
    located = decoder(located_start=True, position_std=0.0, num_tokens=8)
    torch.testing.assert_close(located.token_positions.detach(), prefix_places(8, 32))
    assert torch.equal(located.positions_ND, sincos_places((2, 2), 32))
    assert not located.modulation.weight.any() and not located.to_patches.weight.any()


def test_the_least_and_the_most_that_settings_allow() -> None:
    made = decoder(steps=1, condition_dropout=0.0, time_shift=0.01)
    assert made.facts() == {"sampler": "euler, 1 steps, time shift 0.01", "guidance": "none", "noise seed": 0}
    assert decoder(guidance=ClassifierFreeGuidance(scale=2.5)).facts() == {
        "sampler": "euler, 20 steps",
        "guidance": "classifier-free, scale 2.5",
        "noise seed": 0,
    }
    with pytest.raises(ValueError, match=r"condition_dropout=-0\.1"):
        decoder(condition_dropout=-0.1)
    with pytest.raises(ValueError, match="threshold=0"):
        AdaptiveProjectedGuidance(threshold=0)
    AdaptiveProjectedGuidance(threshold=1e-3)


def test_projected_guidance_is_algorithm_1_of_the_paper() -> None:
    """Image by image and step by step: momentum, then the norm, then the split along the prediction."""
    scale, momentum, threshold, parallel = 3.0, -0.5, 4.0, 0.3
    guide = AdaptiveProjectedGuidance(scale=scale, momentum=momentum, threshold=threshold, parallel=parallel).start()
    steps = [torch.randn(2, 2, 3, 4, 4, dtype=torch.float64) for _ in range(3)]
    steps[0][1, 1] = steps[0][0, 1] + 1e-3  # an image whose difference is shorter than the threshold
    running = [torch.zeros(48, dtype=torch.float64) for _ in range(2)]
    for with_codes, without in steps:
        found = guide(with_codes, without)
        for image in range(2):
            running[image] = (with_codes[image] - without[image]).flatten() + momentum * running[image]
            length = float(running[image].norm())
            difference = running[image] * min(1.0, threshold / length)
            direction = with_codes[image].flatten() / with_codes[image].norm()
            along = (difference @ direction) * direction
            expected = with_codes[image].flatten() + (scale - 1) * (difference - along + parallel * along)
            torch.testing.assert_close(found[image].flatten(), expected)


def test_guidance_without_a_difference_changes_nothing() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(AdaptiveProjectedGuidance().start()(x, x), x)
