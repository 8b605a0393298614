"""Gumbel-softmax quantization against hand formulas; the noise is tested in test_softmax_codes.py."""

import math

import pytest
import torch
import torch.nn.functional as F

from imtok.common.types import Stream
from imtok.tokenizers.quantizers.gumbel_vq import GumbelVQ


def test_eval_takes_the_highest_score() -> None:
    vq, z = GumbelVQ(dim=4, codebook_size=16, code_dim=3).eval(), torch.randn(2, 10, 4)
    out = vq({"main": Stream(z)})
    assert torch.equal(out.indices["main"][..., 0], vq.scores(z).argmax(-1))
    expected = vq.project_out(vq.codebook[out.indices["main"][..., 0]])
    torch.testing.assert_close(out.codes["main"].x_BND, expected)


def test_training_draws_and_repeats_from_the_seed() -> None:
    vq, z = GumbelVQ(dim=4, codebook_size=16), torch.randn(2, 100, 4)
    indices = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        indices.append(vq({"main": Stream(z)}).indices["main"])
    assert torch.equal(indices[0], indices[1])
    assert not torch.equal(indices[0], indices[2])
    assert not vq.stochastic
    assert GumbelVQ(dim=4, codebook_size=16, sample_in_eval=True).stochastic


def test_kl_is_the_divergence_from_the_even_distribution() -> None:
    vq, z = GumbelVQ(dim=4, codebook_size=16), torch.randn(2, 10, 4)
    q = vq.scores(z).softmax(-1)
    expected = (q * (q * 16 + 1e-10).log()).sum(-1).mean()  # taming-transformers' form
    torch.testing.assert_close(vq({"main": Stream(z)}).losses["kl"], expected)
    even = torch.zeros_like(z)
    vq.scores.bias.data.zero_()
    assert vq({"main": Stream(even)}).losses["kl"].item() == pytest.approx(0.0, abs=1e-6)


def test_temperature_falls_along_a_cosine() -> None:
    vq = GumbelVQ(dim=4, codebook_size=16, temperature=1.0, temperature_end=0.2, temperature_updates=100)
    found = []
    for update in (0, 50, 100, 1000):
        vq.set_update(update)
        found.append(vq.temperature)
    assert found == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert math.isclose(GumbelVQ(dim=4, codebook_size=16, temperature=0.5).temperature, 0.5)


def test_gradients_reach_scores_and_codes() -> None:
    vq, z = GumbelVQ(dim=4, codebook_size=16), torch.randn(1, 10, 4, requires_grad=True)
    F.mse_loss(vq({"main": Stream(z)}).codes["main"].x_BND, torch.zeros(1, 10, 4)).backward()
    for tensor in (z, vq.scores.weight, vq.scores.bias, vq.codebook):
        assert float(tensor.grad.abs().sum()) > 0


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature_end": 0.5}, {"codebook_size": 1}])
def test_impossible_settings(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        GumbelVQ(dim=4, **settings)
