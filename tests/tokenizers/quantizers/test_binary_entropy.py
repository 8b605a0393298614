"""Held against the whole softmax over all codes, in float64."""

import math

import pytest
import torch
from torch import Tensor

from imtok.tokenizers.quantizers.shared import binary_entropy
from imtok.tokenizers.quantizers.shared.binary_entropy import binary_entropies, check_group_bits
from imtok.tokenizers.quantizers.shared.binary_entropy_table import table_entropies


def whole_table(
    z: Tensor, *, temperature: float, group_bits: int, over_groups: str, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Definition: p = softmax(2 z.c / T) over every code of every group."""
    codes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=z.dtype)] * group_bits).reshape(-1, group_bits)
    p = (2 * z.unflatten(1, (-1, group_bits)) @ codes.T / temperature).softmax(dim=-1)  # [N, G, K]
    per_token = torch.special.entr(p).sum(dim=-1)
    of = lambda mean: -(mean * (mean + offset).log()).sum(dim=-1)  # noqa: E731
    if over_groups == "pooled":
        return per_token.mean(), of(p.mean(dim=(0, 1)))
    if over_groups == "mean":
        return per_token.mean(), of(p.mean(dim=0)).mean()
    return per_token.sum(dim=1).mean(), of(p.mean(dim=0)).sum()


CASES = [
    (1, 1, "sum"),
    (7, 7, "sum"),
    (10, 10, "sum"),
    (6, 1, "sum"),
    (12, 4, "sum"),
    (12, 4, "mean"),
    (12, 4, "pooled"),
]


@pytest.mark.parametrize(("bits", "group_bits", "over_groups"), CASES)
@pytest.mark.parametrize("temperature", [0.3, 4.0])
def test_values_and_gradients_equal_the_whole_table(
    bits: int, group_bits: int, over_groups: str, temperature: float
) -> None:
    z = torch.randn(50, bits, dtype=torch.float64, requires_grad=True)
    expected = whole_table(z, temperature=temperature, group_bits=group_bits, over_groups=over_groups)
    expected_grad = torch.autograd.grad(0.7 * expected[0] - 1.3 * expected[1], z)[0]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        own = z.detach().to(dtype).requires_grad_()
        actual = binary_entropies(4 * own / temperature, group_bits=group_bits, over_groups=over_groups)
        assert actual[0].item() == pytest.approx(expected[0].item(), rel=tolerance)
        assert actual[1].item() == pytest.approx(expected[1].item(), rel=tolerance)
        grad = torch.autograd.grad(0.7 * actual[0] - 1.3 * actual[1], own)[0]
        assert float((grad - expected_grad).abs().max()) < tolerance * float(expected_grad.std() if bits > 1 else 1)


def test_chunks_that_are_made_again_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(300, 9, dtype=torch.float64, requires_grad=True)
    results = []
    for kept, chunk in ((2**22, 2**20), (1, 2**10)):
        monkeypatch.setattr(binary_entropy, "KEPT_FLOATS", kept)
        monkeypatch.setattr(binary_entropy, "CHUNK_FLOATS", chunk)
        of_mean = binary_entropies(logits, group_bits=9)[1]
        results.append((of_mean.detach(), torch.autograd.grad(of_mean, logits)[0]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-15)


def test_closed_forms() -> None:
    per_token, of_mean = binary_entropies(torch.zeros(5, 12), group_bits=12)  # nothing known: uniform
    assert float(per_token) == pytest.approx(12 * math.log(2))
    assert float(of_mean) == pytest.approx(12 * math.log(2))
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 10) * 400  # each of 1024 codes once, quite sure
    per_token, of_mean = binary_entropies(corners, group_bits=10)
    assert float(per_token) == pytest.approx(0, abs=1e-6)
    assert float(of_mean) == pytest.approx(10 * math.log(2))


def test_gradients_stay_finite_where_probabilities_vanish() -> None:
    logits = (torch.randn(64, 18) * 1000).requires_grad_()
    per_token, of_mean = binary_entropies(logits, group_bits=18)
    (per_token - of_mean).backward()
    assert bool(torch.isfinite(logits.grad).all())


def test_groups_bound_the_joint_entropy_from_above() -> None:
    logits = torch.randn(200, 1).repeat(1, 8) * 3  # bits that go together
    joint, by_four, by_bit = (float(binary_entropies(logits, group_bits=g)[1]) for g in (8, 4, 1))
    assert joint + 0.01 < by_four
    assert by_four + 0.01 < by_bit


@pytest.mark.parametrize(("group_bits", "over_groups"), [(8, "sum"), (4, "pooled"), (4, "mean")])
@pytest.mark.parametrize("rule", ["exact", "offset"])
def test_table_form_gives_the_same_numbers(group_bits: int, over_groups: str, rule: str) -> None:
    z = torch.randn(40, 8, dtype=torch.float64) * 0.3
    kinds = {"group_bits": group_bits, "over_groups": over_groups, "log_rule": rule}
    table = table_entropies(z, temperature=0.5, **kinds)
    torch.testing.assert_close(table, binary_entropies(8 * z, **kinds), rtol=1e-10, atol=0)
    whole = whole_table(
        z, temperature=0.5, group_bits=group_bits, over_groups=over_groups, offset=1e-5 if rule == "offset" else 0.0
    )
    torch.testing.assert_close(table, whole, rtol=1e-10, atol=0)


def test_memory_stays_far_below_tokens_times_codes() -> None:
    """Every tensor kept for the backward pass, in bytes: 2048 tokens x 2^18 codes would be 2 GiB each."""
    logits = torch.randn(2048, 18, requires_grad=True)
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        binary_entropies(logits, group_bits=18)
    assert kept < 100 * 2**20


def test_impossible_groups_name_the_setting_and_one_that_works() -> None:
    with pytest.raises(ValueError, match=r"entropy_group_bits=5: 12 bits cannot be split"):
        check_group_bits(bits=12, group_bits=5)
    with pytest.raises(ValueError, match=r"entropy_group_bits=36.*at most 18 bits.*entropy_group_bits=18"):
        check_group_bits(bits=36, group_bits=36)
