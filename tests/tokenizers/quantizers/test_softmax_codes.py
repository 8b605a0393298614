"""The chunked forms against the full [tokens, codes] table in float64 autograd, and against F.gumbel_softmax."""

import pytest
import torch
import torch.nn.functional as F

from imtok.tokenizers.quantizers.shared import softmax_codes
from imtok.tokenizers.quantizers.shared.softmax_codes import choose_code, distance_entropies, dot_entropies


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch) -> None:
    monkeypatch.setattr(softmax_codes, "chunks", lambda z, codes: list(z.split(7)))


def full_entropies(logits):
    p = logits.softmax(-1)
    mean = p.mean(0)
    return -(p * logits.log_softmax(-1)).sum(-1).mean(), -(mean * (mean + 1e-5).log()).sum()


def gradients(pair, inputs, weights=(0.7, -1.3)):
    return torch.autograd.grad(weights[0] * pair[0] + weights[1] * pair[1], inputs)


@pytest.mark.parametrize("temperature", [1.0, 0.05])
@pytest.mark.parametrize("kind", ["distance", "dot", "dot with bias"])
def test_entropies_and_gradients_equal_the_full_form(kind: str, temperature: float) -> None:
    z, codes, bias = (torch.randn(*shape, requires_grad=True) for shape in [(33, 5), (50, 5), (50,)])
    wide = [t.detach().double().requires_grad_() for t in (z, codes, bias)]
    used = slice(0, 3 if "bias" in kind else 2)
    if kind == "distance":
        ours = distance_entropies(z, codes, temperature)
        full = full_entropies(-(wide[0][:, None] - wide[1][None]).square().sum(-1) / temperature)
    else:
        ours = dot_entropies(z, codes, temperature, bias if "bias" in kind else None)
        full = full_entropies((wide[0] @ wide[1].T + (wide[2] if "bias" in kind else 0)) / temperature)
    for mine, theirs in zip(ours, full, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(gradients(ours, [z, codes, bias][used]), gradients(full, wide[used]), strict=True):
        # fp32 scores of size 1 / T are that much less exact
        atol = 1e-5 * float(theirs.abs().max()) * max(1.0, 0.5 / temperature)
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=atol)


def test_choice_of_a_code_equals_the_straight_through_one_hot() -> None:
    z, codes, probe = torch.randn(33, 5, requires_grad=True), torch.randn(50, 5, requires_grad=True), torch.randn(33, 5)
    ours, indices = choose_code(z, codes, codes)
    p = (z @ codes.T).softmax(-1)
    hard = F.one_hot(p.argmax(-1), 50).float()
    full = (hard - p.detach() + p) @ codes
    assert torch.equal(indices, p.argmax(-1))
    torch.testing.assert_close(ours, full)
    for mine, theirs in zip(
        torch.autograd.grad((ours * probe).sum(), (z, codes)),
        torch.autograd.grad((full * probe).sum(), (z, codes)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_noise_is_gumbel_and_the_same_in_the_backward_pass() -> None:
    z, keys = torch.randn(33, 5, requires_grad=True), torch.randn(50, 5, requires_grad=True)
    bias, values = torch.randn(50, requires_grad=True), torch.randn(50, 3, requires_grad=True)
    probe, inputs, tau = torch.randn(33, 3), (z, keys, bias, values), 0.6
    ours, _ = choose_code(z, keys, values, bias_K=bias, temperature=tau, noise_seed=5)
    generator = torch.Generator().manual_seed(5)  # the same draws, in the same chunks
    noise = torch.cat([-torch.empty(len(r), 50).exponential_(generator=generator).log() for r in z.split(7)])
    soft = ((z @ keys.T + bias + noise) / tau).softmax(-1)
    hard = F.one_hot(soft.argmax(-1), 50) - soft.detach() + soft
    full = hard @ values
    torch.testing.assert_close(ours, full)
    for mine, theirs in zip(
        torch.autograd.grad((ours * probe).sum(), inputs),
        torch.autograd.grad((full * probe).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    again = [choose_code(z, keys, values, bias_K=bias, noise_seed=s)[1] for s in range(400)]
    shares = torch.stack([F.one_hot(i[0], 50).float() for i in again]).mean(0)
    assert (
        float((shares - (z[0] @ keys.T + bias).softmax(-1)).detach().abs().max()) < 0.1
    )  # Gumbel-max draws from the softmax


def test_no_gradient_is_asked_of_a_frozen_codebook() -> None:
    z, codes = torch.randn(9, 5, requires_grad=True), torch.randn(50, 5)
    distance_entropies(z, codes, 1.0)[0].backward()
    assert bool(torch.isfinite(z.grad).all())
