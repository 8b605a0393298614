"""The flow decoder: noise, masks, losses, what it says about itself."""

import pytest
import torch

from imtok.common.types import Stream
from imtok.decoders.flow.decoder import FlowDecoder
from imtok.decoders.flow.guidance import AdaptiveProjectedGuidance

SIZES = {"dim": 4, "num_tokens": 6, "input_size": (8, 8), "patch_size": 4, "width": 32, "depth": 2, "head_dim": 16}


def decoder(**changes: object) -> FlowDecoder:
    torch.manual_seed(0)
    made = FlowDecoder(**(SIZES | {"time_waves": 16, "steps": 3} | changes)).eval()
    for parameter in made.parameters():  # zero gates and a zero head would draw nothing but noise
        torch.nn.init.normal_(parameter, std=0.1)
    return made


def codes(batch: int = 3) -> dict[str, Stream]:
    return {"main": Stream(torch.randn(batch, 6, 4, generator=torch.Generator().manual_seed(1)).round())}


@torch.no_grad()
def test_a_picture_does_not_depend_on_its_batch() -> None:
    made, given = decoder(), codes()
    together = made(given)
    alone = torch.cat([made({"main": Stream(given["main"].x_BND[i : i + 1])}) for i in range(3)])
    assert torch.equal(made(given), together)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_noise_follows_from_seed_and_first_token_and_a_generator_overrides_it() -> None:
    made, given = decoder(), codes()
    first = made(given)
    assert not torch.allclose(decoder(noise_seed=1)(given), first)
    drawn = made(given, generator=torch.Generator().manual_seed(7))
    assert torch.equal(made(given, generator=torch.Generator().manual_seed(7)), drawn)
    assert not torch.allclose(drawn, first)
    later = given["main"].x_BND.clone()
    later[:, 3] += 1.0
    assert torch.equal(made._noise(later, None), made._noise(given["main"].x_BND, None))


@torch.no_grad()
def test_what_stands_behind_the_mask_changes_nothing() -> None:
    made, given = decoder(), codes()["main"].x_BND
    mask = torch.arange(6) < torch.tensor([1, 3, 6])[:, None]
    other = torch.where(mask[..., None], given, torch.randn_like(given))
    assert torch.equal(made({"main": Stream(given, mask_BN=mask)}), made({"main": Stream(other, mask_BN=mask)}))
    full = made({"main": Stream(given)})
    shown = made({"main": Stream(given, mask_BN=mask)})
    assert torch.equal(shown[2], full[2])
    assert not torch.allclose(shown[0], full[0])


def test_at_first_the_velocity_is_zero_and_the_loss_that_of_data_and_noise() -> None:
    made = FlowDecoder(**SIZES).train()
    torch.manual_seed(0)
    images = 0.5 * torch.randn(512, 3, 8, 8)
    loss = made.training_losses({"main": Stream(torch.randn(512, 6, 4))}, images)["velocity"]
    assert float(loss.detach()) == pytest.approx(1.25, rel=0.03)  # variances of noise and data


def test_gradients_reach_codes_only_where_they_are_shown() -> None:
    made, x = decoder(condition_dropout=0.0).train(), torch.randn(2, 6, 4, requires_grad=True)
    mask = torch.arange(6) < torch.tensor([2, 6])[:, None]
    made.training_losses({"main": Stream(x, mask_BN=mask)}, torch.randn(2, 3, 8, 8))["velocity"].backward()
    assert torch.equal(x.grad.abs().sum(-1) > 0, mask)


@torch.no_grad()
def test_guidance_of_scale_one_is_none() -> None:
    plain, guided = decoder(), decoder(guidance=AdaptiveProjectedGuidance(scale=1.0))
    assert torch.equal(plain(codes()), guided(codes()))
    assert not torch.allclose(plain(codes()), decoder(guidance=AdaptiveProjectedGuidance(scale=5.0))(codes()))


def test_it_says_how_it_draws() -> None:
    made = decoder(sampler="heun", time_shift=2.0, guidance=AdaptiveProjectedGuidance(scale=7.5), noise_seed=3)
    assert made.facts() == {
        "sampler": "heun, 3 steps, time shift 2",
        "guidance": "adaptive projected, scale 7.5",
        "noise seed": 3,
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"steps": 0}, "steps=0"), ({"condition_dropout": 1.0}, "condition_dropout"), ({"time_shift": 0.0}, "time_shift")],
)
def test_nonsense_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decoder(**settings)
