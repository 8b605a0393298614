"""The entropy of binary pyramids, where corners shrink from scale to scale, against its formula."""

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from imtok.common.types import Stream
from imtok.tokenizers.quantizers.multi_scale_bsq import MultiScaleBSQ
from imtok.tokenizers.quantizers.shared.binary_entropy import binary_entropies
from imtok.tokenizers.quantizers.shared.bit_entropies import bit_entropies


def entropy(p: torch.Tensor) -> torch.Tensor:
    return -(p * p.log() + (1 - p) * (1 - p).log())


def test_entropy_weighs_each_scales_own_corners() -> None:
    quantizer = MultiScaleBSQ(dim=6, bits=6, scales=[1, 2, 4], scale=0.5, phi_convs=0).train()
    z = torch.randn(3, 16, 6)
    loss = quantizer({"main": Stream(z, (4, 4))}).losses["entropy"]
    left = F.normalize(z, dim=-1).transpose(1, 2).unflatten(2, (4, 4)).double()
    expected = torch.zeros((), dtype=torch.float64)
    for number, side in enumerate([1, 2, 4]):
        corner = 0.5**number / 6**0.5
        p = torch.sigmoid(4 * corner * left.permute(0, 2, 3, 1).reshape(-1, 6))
        expected += (entropy(p).sum(dim=1).mean() - entropy(p.mean(dim=0)).sum()) / 3
        codes = torch.where(F.interpolate(left, (side, side), mode="area") > 0, corner, -corner)
        left = left - (codes if side == 4 else F.interpolate(codes, (4, 4), mode="bicubic"))
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=1e-4)


def test_scales_that_no_sample_reaches_add_nothing() -> None:
    """They are computed all the same: another process of the run may wait for this one's sums."""
    quantizer = MultiScaleBSQ(dim=6, bits=6, scales=[1, 2, 4], phi_convs=0).train()
    z = torch.randn(3, 16, 6, requires_grad=True)
    short = quantizer({"main": Stream(z, (4, 4))}, depths_B=torch.ones(3, dtype=torch.int64)).losses["entropy"]
    short.backward()
    assert bool(torch.isfinite(z.grad).all())
    first = F.normalize(z.detach(), dim=-1).reshape(-1, 6).double()
    p = torch.sigmoid(4 / 6**0.5 * first)
    expected = (entropy(p).sum(dim=1).mean() - entropy(p.mean(dim=0)).sum()) / 3
    torch.testing.assert_close(short.double(), expected, atol=1e-5, rtol=1e-4)


def test_samples_that_end_early_cost_no_wait() -> None:
    with FakeTensorMode():  # its tensors have no values: what would ask a GPU for one fails
        quantizer = MultiScaleBSQ(dim=6, bits=6, scales=[1, 2, 4], quantizer_dropout=0.5).train()
        z = torch.randn(4, 16, 6, requires_grad=True)
        out = quantizer({"main": Stream(z, (4, 4))})
        (out.codes["main"].x_BND.sum() + sum(out.losses.values())).backward()


def test_entropies_of_the_samples_that_count() -> None:
    logits, keep = 3 * torch.randn(5, 7, 4), torch.tensor([True, False, True, True, False])
    whole, kept, none = bit_entropies([(logits, None), (logits, keep), (logits, torch.zeros_like(keep))])
    for (per_token, of_mean), rows in ((whole, logits), (kept, logits[keep])):
        expected = binary_entropies(rows.flatten(0, 1), group_bits=1)
        torch.testing.assert_close(torch.stack([per_token, of_mean]), torch.stack(expected))
    assert none == (0, 0)
