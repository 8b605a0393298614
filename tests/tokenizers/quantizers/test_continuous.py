"""Identity, KL, and the scalar grid that quantizes them afterwards; the grid's values are held against TokenBridge's
vectors in tests/eval."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.common.types import Stream, StreamShape
from imtok.tokenizers.hub import from_pretrained, save_pretrained
from imtok.tokenizers.quantizers.gaussian_scalar import GaussianScalar, normal_values
from imtok.tokenizers.quantizers.identity import Identity
from imtok.tokenizers.quantizers.kl import KL

SHAPES = {"main": StreamShape(10)}


def test_identity_passes_vectors_and_gradients() -> None:
    z = torch.randn(2, 10, 6, requires_grad=True)
    out = Identity(dim=6)({"main": Stream(z)})
    assert torch.equal(out.codes["main"].x_BND, z)
    assert out.indices == {} and Identity(dim=6).bits(SHAPES) == 0
    assert Identity(dim=6, code_dim=2)({"main": Stream(z)}).codes["main"].x_BND.shape == (2, 10, 6)


def test_a_continuous_tokenizer_says_so(tokenizer_node, tmp_path) -> None:
    node = {**tokenizer_node, "quantizer": {"_target_": "imtok.tokenizers.quantizers.kl.KL"}}
    save_pretrained(build(node, key="tokenizer"), tmp_path)
    tokenizer = from_pretrained(tmp_path)
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    assert tokenizer.reconstruct(images).shape == images.shape
    assert tokenizer.bits_per_image == 0 and tokenizer.num_tokens == 0
    with pytest.raises(UserError, match="continuous"):
        tokenizer.tokenize(images)


def test_kl_is_torchs_divergence_and_samples_in_training_only() -> None:
    kl, z = KL(dim=6, latent_dim=3), torch.randn(2, 10, 6)
    mean, log_variance = kl.project_in(z).chunk(2, dim=-1)
    spread = (log_variance / 2).exp()
    expected = kl_divergence(Normal(mean, spread), Normal(0.0, 1.0)).sum(-1).mean()
    first, second = kl({"main": Stream(z)}), kl({"main": Stream(z)})
    torch.testing.assert_close(first.losses["kl"], expected)
    assert not torch.equal(first.codes["main"].x_BND, second.codes["main"].x_BND)
    torch.testing.assert_close(kl.eval()({"main": Stream(z)}).codes["main"].x_BND, kl.project_out(mean))
    log_variance = 2 * log_variance - 1  # so that no deviation is about 1
    spread = (log_variance / 2).exp()
    drawn = Stream(torch.cat([mean, log_variance], -1))
    draws = torch.stack([kl.train().quantize_stream(drawn).codes_BND for _ in range(2000)])
    torch.testing.assert_close(draws.mean(0), mean, rtol=0, atol=0.2)
    torch.testing.assert_close(draws.std(0), spread, rtol=0.1, atol=0.05)


def test_kl_summed_over_tokens() -> None:
    """TiTok's and latent diffusion's: the sum of everything, over the number of images."""
    kl, z = KL(dim=6, project=False, reduction="sum"), torch.randn(2, 10, 6)
    mean, log_variance = z.chunk(2, dim=-1)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum() / 2
    torch.testing.assert_close(kl({"main": Stream(z)}).losses["kl"], expected)
    with pytest.raises(ValueError, match="reduction=sum"):
        kl({"main": Stream(z, None, torch.ones(2, 10, dtype=torch.bool))})


def test_kl_of_an_encoder_that_gives_both_halves() -> None:
    kl, z = KL(dim=6, project=False).eval(), torch.randn(2, 10, 6)
    out = kl({"main": Stream(z)})
    assert torch.equal(out.codes["main"].x_BND, z[..., :3])
    assert kl.out_dim == 3 and not list(kl.parameters())
    wild = torch.full((1, 1, 6), 1e4)
    assert bool(torch.isfinite(kl.train()({"main": Stream(wild)}).losses["kl"]))
    with pytest.raises(ValueError, match="latent_dim=5"):
        KL(dim=6, latent_dim=5, project=False)
    with pytest.raises(ValueError, match="must be even"):
        KL(dim=7, project=False)
    assert KL(dim=6, sample_in_eval=True).stochastic


def test_values_are_means_of_equal_parts_of_a_normal() -> None:
    sample = torch.randn(400_000, dtype=torch.float64).clamp(-8, 8)
    edges = Normal(0.0, 1.0).icdf(torch.arange(1, 8) / 8).double()
    part = torch.bucketize(sample, edges)
    means = torch.stack([sample[part == k].mean() for k in range(8)])
    torch.testing.assert_close(normal_values(3, 8.0).double(), means, rtol=0, atol=0.02)


def test_nearest_value_of_each_channel() -> None:
    scalar, z = GaussianScalar(dim=4, bits=4).eval(), torch.randn(3, 50, 4) * 2
    scalar.fit([z])
    out = scalar({"main": Stream(z)})
    u = (z / scalar.spread + 5) / 10 * 6 - 3
    assert torch.equal(out.indices["main"], (u[..., None] - scalar.values).abs().argmin(-1))
    assert scalar.index_layout(SHAPES)[0].vocabulary == (16,) * 4
    torch.testing.assert_close(scalar.spread, z.std(correction=0).expand(4), rtol=1e-4, atol=1e-5)


def test_fit_of_each_channel_suits_uneven_ones() -> None:
    z = torch.randn(3, 500, 4) * torch.tensor([0.01, 1.0, 5.0, 1.0]) + torch.tensor([0.0, 3.0, 0.0, -3.0])
    errors = []
    for per_channel in (False, True):
        scalar = GaussianScalar(dim=4, bits=6, per_channel=per_channel).eval()
        scalar.fit(z.split(1))
        errors.append((scalar({"main": Stream(z)}).codes["main"].x_BND - z).square().mean(dim=(0, 1)))
    assert bool((errors[1][:2] < errors[0][:2]).all())
    with pytest.raises(ValueError, match="fewer than 2"):
        scalar.fit([])


def test_takes_the_place_of_a_bottleneck() -> None:
    kl, z = KL(dim=6, latent_dim=3).eval(), torch.randn(2, 10, 6)
    scalar = GaussianScalar(
        dim=6, bits=12, continuous={"_target_": "imtok.tokenizers.quantizers.kl.KL", "latent_dim": 3}
    )
    scalar.continuous.load_state_dict(kl.state_dict())
    scalar.fit([z])
    out = scalar.eval()({"main": Stream(z)})
    torch.testing.assert_close(out.codes["main"].x_BND, kl({"main": Stream(z)}).codes["main"].x_BND, rtol=0, atol=0.02)
    assert out.indices["main"].shape == (2, 10, 3)
    again = scalar.indices_to_codes(out.indices, SHAPES)["main"].x_BND
    torch.testing.assert_close(again, out.codes["main"].x_BND)
    with pytest.raises(ValueError, match="not a continuous bottleneck"):
        GaussianScalar(dim=6, continuous={"_target_": "imtok.tokenizers.quantizers.vq.VQ"})


def test_the_scale_follows_only_in_training_and_when_asked() -> None:
    z = torch.randn(2, 100, 4) * 7
    still, follows = GaussianScalar(dim=4), GaussianScalar(dim=4, follow=0.5)
    for scalar in (still, follows):
        for _ in range(20):
            scalar({"main": Stream(z)})
    assert torch.equal(still.spread, torch.ones(4))
    torch.testing.assert_close(follows.spread, torch.full((4,), 7.0), rtol=0.2, atol=0)


@pytest.mark.parametrize("settings", [{"bits": 0}, {"bits": 40}, {"range": 0.0}, {"follow": 1.0}])
def test_impossible_settings(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        GaussianScalar(dim=4, **settings)


@pytest.mark.parametrize("per_channel", [True, False])
def test_one_update_keeps_the_share_of_the_old_scale_that_is_asked_for(per_channel: bool) -> None:
    z = torch.randn(2, 200, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 5
    scalar = GaussianScalar(dim=4, follow=0.75, per_channel=per_channel).train()
    scalar({"main": Stream(z)})
    flat = z.flatten(0, 1)
    if per_channel:
        mean, spread = flat.mean(0), flat.std(0, correction=0)
    else:
        mean, spread = torch.zeros(4), ((flat.square().mean() - flat.mean().square()).sqrt()).expand(4)
    torch.testing.assert_close(scalar.mean, 0.25 * mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scalar.spread, 0.75 + 0.25 * spread, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("given", "bounded"), [(-100.0, -30.0), (-29.0, -29.0), (19.0, 19.0), (100.0, 20.0)])
def test_log_variances_of_kl_are_bounded(given: float, bounded: float) -> None:
    z = torch.cat([torch.full((1, 2, 3), 2.0), torch.full((1, 2, 3), given)], dim=-1)
    expected = 3 * 0.5 * (4 + math.exp(bounded) - 1 - bounded)
    assert float(KL(dim=6, project=False).train()({"main": Stream(z)}).losses["kl"]) == pytest.approx(
        expected, rel=1e-5
    )


def test_a_batch_that_is_not_finite_leaves_the_scale_as_it_was() -> None:
    scalar = GaussianScalar(dim=4, follow=0.5, per_channel=True).train()
    scalar({"main": Stream(3 * torch.randn(2, 100, 4) + 1)})
    before = {name: value.clone() for name, value in scalar.state_dict().items()}
    z = torch.randn(2, 100, 4)
    z[1, 7, 2] = torch.inf
    scalar({"main": Stream(z)})
    torch.testing.assert_close(scalar.state_dict(), before)
