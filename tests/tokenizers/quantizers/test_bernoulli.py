"""Coins with the right odds, thresholds where asked, gradients of the probability."""

import pytest
import torch

from imtok.common.types import Stream, StreamShape
from imtok.tokenizers.quantizers.bernoulli import Bernoulli


def test_coins_have_the_probability_of_their_logit() -> None:
    quantizer = Bernoulli(dim=3, bits=3, sample="always").eval()
    logits = torch.tensor([-1.0, 0.0, 2.0]).expand(1, 20000, 3)
    bits = quantizer.quantize(logits).codes_BND
    torch.testing.assert_close(bits.mean(dim=(0, 1)), logits[0, 0].sigmoid(), atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("sample", "stochastic", "random_in_training"),
    [("always", True, True), ("training", False, True), ("never", False, False)],
)
def test_randomness_is_what_is_declared(sample: str, stochastic: bool, random_in_training: bool) -> None:
    quantizer, given = Bernoulli(dim=8, bits=12, sample=sample), {"main": Stream(torch.randn(2, 30, 8))}
    assert quantizer.stochastic is stochastic
    for training, expected in ((False, stochastic), (True, random_in_training)):
        quantizer.train(training)
        first, second = quantizer(given).indices["main"], quantizer(given).indices["main"]
        assert torch.equal(first, second) is not expected


def test_code_is_the_sum_of_the_rows_of_its_bits() -> None:
    quantizer = Bernoulli(dim=5, bits=4, sample="never").eval()
    table = quantizer.project_out.weight.T  # [bits, dim], ELM's `embed`
    codes = quantizer.project_out(quantizer.lookup(torch.tensor([[[0b0101]]])))
    torch.testing.assert_close(codes[0, 0], table[0] + table[2])


def test_gradient_is_that_of_the_probability() -> None:
    logits, weight = torch.randn(1, 6, 4, requires_grad=True), torch.randn(1, 6, 4)
    quantizer = Bernoulli(dim=4, bits=4).train()
    (quantizer.quantize(logits).codes_BND * weight).sum().backward()
    p = logits.detach().sigmoid()
    torch.testing.assert_close(logits.grad, weight * p * (1 - p))


def test_too_many_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="bits=63"):
        Bernoulli(dim=4, bits=63)


def test_entropies_are_those_of_the_coins() -> None:
    quantizer = Bernoulli(dim=4, bits=20).train()  # above 18 bits: by groups
    assert quantizer.entropy_group_bits == 10
    logits = torch.randn(1, 300, 20)
    coins = torch.distributions.Bernoulli(logits=logits)
    flat = torch.zeros(1, 300, 20)  # fair coins: both entropies are 20 bits
    assert float(quantizer.quantize(flat).losses["entropy"]) == pytest.approx(0, abs=1e-4)
    difference = quantizer.quantize(logits).losses["entropy"]
    assert float(difference) < float(coins.entropy().sum(-1).mean()) - 9  # a mean that is near uniform over 2 x 2^10


def test_a_token_of_many_bits_is_several_indices() -> None:
    quantizer = Bernoulli(dim=6, bits=64, groups=2).eval()
    out = quantizer({"main": Stream(torch.randn(2, 5, 6))})
    assert quantizer.vocabulary == (2**32, 2**32)
    assert out.indices["main"].shape == (2, 5, 2)
    back = quantizer.indices_to_codes(out.indices, {"main": StreamShape(5)})["main"].x_BND
    assert torch.equal(back, out.codes["main"].x_BND)
    with pytest.raises(ValueError, match="set groups to 2"):
        Bernoulli(dim=6, bits=64)
    with pytest.raises(ValueError, match="groups=3"):
        Bernoulli(dim=6, bits=64, groups=3)


def test_temperature_sharpens_the_coin_and_nothing_else() -> None:
    """sigmoid(logit / temperature) is drawn; losses are those of sigmoid(logit)."""
    z = torch.full((1, 20000, 3), 0.2)
    sharp, plain = (Bernoulli(dim=3, bits=3, temperature=t).train() for t in (0.1, 1.0))
    torch.manual_seed(0)
    drawn = sharp.quantize(z)
    share = ((drawn.indices_BNK[..., 0, None] >> torch.arange(3)) & 1).float().mean()
    assert float(share) == pytest.approx(float(torch.tensor(2.0).sigmoid()), abs=0.01)
    torch.testing.assert_close(drawn.losses["variance"], plain.quantize(z).losses["variance"])


def test_the_variance_is_that_of_the_coins() -> None:
    logits = torch.randn(2, 30, 6)
    loss = Bernoulli(dim=6, bits=6).train().quantize(logits).losses["variance"]
    torch.testing.assert_close(loss, torch.distributions.Bernoulli(logits=logits).variance.mean())
