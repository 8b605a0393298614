"""LFQ, grouped LFQ and BSQ: signs, bit order, gradients and losses."""

import pytest
import torch
import torch.nn.functional as F
import vector_quantize_pytorch as library_of

from imtok.common.types import Stream, StreamShape
from imtok.tokenizers.quantizers.bsq import BSQ
from imtok.tokenizers.quantizers.grouped_lfq import GroupedLFQ
from imtok.tokenizers.quantizers.lfq import LFQ


def run(quantizer: torch.nn.Module, z: torch.Tensor):
    return quantizer({"main": Stream(z)})


def test_zero_is_minus_one_and_the_first_channel_is_worth_one() -> None:
    z = torch.tensor([[[0.5, 0.0, -2.0], [-1.0, 3.0, 0.1]]])
    out = run(LFQ(dim=3, bits=3).eval(), z)
    assert out.codes["main"].x_BND.tolist() == [[[1, -1, -1], [-1, 1, 1]]]
    assert out.indices["main"].tolist() == [[[0b001], [0b110]]]
    assert run(LFQ(dim=3, bits=3, order="msb_first").eval(), z).indices["main"].tolist() == [[[0b100], [0b011]]]


def test_most_significant_first_is_the_librarys_order() -> None:
    z = torch.randn(2, 7, 12)
    library = library_of.LFQ(dim=12, codebook_size=2**6, num_codebooks=2).eval()
    ours = run(GroupedLFQ(dim=12, bits=12, groups=2, order="msb_first").eval(), z)
    codes, indices, _ = library(z)
    assert torch.equal(ours.indices["main"], indices.long())
    assert torch.equal(ours.codes["main"].x_BND, codes)
    index = run(LFQ(dim=10, bits=10, order="msb_first").eval(), torch.tensor([[[1.0] + [-1.0] * 9]])).indices["main"]
    assert int(index) == 512


@pytest.mark.parametrize("make", [lambda: LFQ(dim=36, bits=36, entropy_group_bits=9), lambda: BSQ(dim=36, bits=36)])
def test_wide_codes_keep_one_index(make) -> None:
    quantizer, z = make().eval(), torch.randn(2, 5, 36)
    out = run(quantizer, z)
    assert quantizer.vocabulary == (2**36,)
    assert int(out.indices["main"].max()) > 2**32
    torch.testing.assert_close(quantizer.lookup(out.indices["main"]), out.codes["main"].x_BND)


def test_two_to_the_128_codes_are_sixteen_indices() -> None:
    quantizer, z = GroupedLFQ(dim=128, bits=128, groups=16), torch.randn(2, 9, 128)
    out = run(quantizer, z)
    assert out.indices["main"].shape == (2, 9, 16)
    assert quantizer.bits({"main": StreamShape(9)}) == 9 * 128
    assert torch.equal(quantizer.lookup(out.indices["main"]), (z > 0) * 2.0 - 1)


def test_losses_are_commitment_and_weighted_entropies() -> None:
    z = torch.randn(3, 20, 8)
    out = run(LFQ(dim=8, bits=8, temperature=1.0, sample_weight=0.7, batch_weight=2.0).train(), z)
    codes = torch.where(z > 0, 1.0, -1.0)
    assert float(out.losses["commit"]) == pytest.approx(float(F.mse_loss(z, codes)))
    stats = out.stats
    expected = 0.7 * stats["entropy_per_token"] - 2.0 * stats["entropy_of_mean"]
    assert float(out.losses["entropy"]) == pytest.approx(float(expected))
    assert not stats["entropy_per_token"].requires_grad


def test_gradient_goes_straight_through() -> None:
    z = torch.randn(1, 4, 6, requires_grad=True)
    weight = torch.randn(1, 4, 6)
    (run(LFQ(dim=6, bits=6).train(), z).codes["main"].x_BND * weight).sum().backward()
    assert torch.equal(z.grad, weight)


def test_bound_squashes_before_signs_and_losses() -> None:
    z = torch.randn(1, 4, 6)
    out = run(LFQ(dim=6, bits=6, bound=True).train(), z)
    squashed = 2 * z.sigmoid() - 1
    assert float(out.losses["commit"]) == pytest.approx(float(F.mse_loss(squashed, torch.where(z > 0, 1.0, -1.0))))


def test_wetok_pools_groups_where_others_sum() -> None:
    z = torch.zeros(1, 50, 8)
    z[..., :4], z[..., 4:] = 1.0, -1.0  # each group stuck on one code of its own
    pooled, summed = (
        run(GroupedLFQ(dim=8, bits=8, groups=2, over_groups=how).train(), z).stats["entropy_of_mean"]
        for how in ("pooled", "sum")
    )
    assert float(summed) == pytest.approx(0, abs=1e-5)
    assert float(pooled) == pytest.approx(0.6931, abs=1e-3)  # two codes, half the tokens each


def test_bsq_codes_lie_on_the_unit_sphere() -> None:
    out = run(BSQ(dim=9, bits=9).eval(), torch.randn(2, 6, 9))
    torch.testing.assert_close(out.codes["main"].x_BND.norm(dim=-1), torch.ones(2, 6))


def test_bsq_entropies_are_the_published_per_bit_sums() -> None:
    z = torch.randn(4, 30, 9)
    out = run(BSQ(dim=9, bits=9).train(), z)
    u = F.normalize(z, dim=-1)
    p = torch.sigmoid(-4 * u / 9**0.5).flatten(0, 1)
    bit = torch.distributions.Bernoulli(p).entropy().sum(dim=-1).mean()
    of_mean = torch.distributions.Bernoulli(p.mean(dim=0)).entropy().sum()
    assert float(out.stats["entropy_per_token"]) == pytest.approx(float(bit), rel=1e-5)
    assert float(out.stats["entropy_of_mean"]) == pytest.approx(float(of_mean), rel=1e-5)
    codes = torch.where(u > 0, 1.0, -1.0) / 3
    assert float(out.losses["commit"]) == pytest.approx(float((u - codes).square().sum(-1).mean()), rel=1e-5)


def test_bsq_joint_entropy_is_the_librarys_spherical_lfq() -> None:
    z = torch.randn(2, 40, 6)
    library = library_of.LFQ(dim=6, codebook_size=2**6, spherical=True).train()
    _, terms = library(z, inv_temperature=1.0, return_loss_breakdown=True)
    out = run(BSQ(dim=6, bits=6, entropy_group_bits=6).train(), z)
    assert float(out.stats["entropy_per_token"]) == pytest.approx(float(terms.per_sample_entropy), rel=1e-5)
    assert float(out.stats["entropy_of_mean"]) == pytest.approx(float(terms.batch_entropy), rel=1e-5)


@pytest.mark.parametrize(("gradient", "factor"), [("official", 1 / 3), ("unit", 1.0)])
def test_bsq_gradient_forms(gradient: str, factor: float) -> None:
    z, weight = torch.randn(1, 4, 9, requires_grad=True), torch.randn(1, 4, 9)
    (run(BSQ(dim=9, bits=9, gradient=gradient).train(), z).codes["main"].x_BND * weight).sum().backward()
    own = z.detach().clone().requires_grad_()
    (F.normalize(own, dim=-1) * weight * factor).sum().backward()
    torch.testing.assert_close(z.grad, own.grad)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LFQ(dim=4, bits=20), "entropy_group_bits=20.*entropy_group_bits=10"),
        (lambda: LFQ(dim=4, bits=80, entropy_group_bits=8), "groups=1.*80 bits does not fit int64.*groups=2"),
        (lambda: LFQ(dim=4, bits=0), "bits=0"),
        (lambda: LFQ(dim=4, bits=10, groups=3), "groups=3: 10 bits cannot be split"),
        (lambda: LFQ(dim=4, temperature=0.0), "temperature=0.0"),
        (lambda: LFQ(dim=4, log_rule="floor"), "log_rule=floor.*entropy_form=table"),
        (lambda: GroupedLFQ(dim=4, bits=64, groups=2), "groups=2.*groups=4"),
        (lambda: GroupedLFQ(dim=4, bits=10, groups=4), "groups=4: 10 bits cannot be split"),
        (lambda: BSQ(dim=4, bits=18, entropy_group_bits=4), "entropy_group_bits=4"),
    ],
)
def test_impossible_settings_are_named(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("order", ["lsb_first", "msb_first"])
def test_a_floored_logarithm_is_that_of_the_whole_table(order: str) -> None:
    """log(max(p, 1e-5)) of every code of every token, written out; only `table` can do it."""
    z = torch.randn(1, 40, 6) * 0.3
    settings = {"bits": 6, "temperature": 0.2, "log_rule": "floor", "entropy_form": "table", "order": order}
    stats = run(LFQ(dim=6, **settings).train(), z).stats
    codes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 6)
    p = (2 * z[0] @ codes.T / 0.2).softmax(dim=1)
    entropy = [-(q * q.clamp(min=1e-5).log()).sum(-1) for q in (p, p.mean(0))]
    assert float((p < 1e-5).float().mean()) > 0.05, "the floor shows"
    assert float(stats["entropy_per_token"]) == pytest.approx(float(entropy[0].mean()), rel=1e-4)
    assert float(stats["entropy_of_mean"]) == pytest.approx(float(entropy[1]), rel=1e-4)
    with pytest.raises(ValueError, match="log_rule=floor"):
        LFQ(dim=6, bits=6, log_rule="floor")
