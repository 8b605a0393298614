"""Against vector-quantize-pytorch's FSQ where that is right, and integers where it is not."""

import math

import pytest
import torch
import vector_quantize_pytorch as library_of

from imtok.common.types import Stream
from imtok.tokenizers.quantizers.fsq import FSQ


@pytest.mark.parametrize(("levels", "groups"), [((8, 5, 5, 5), 1), ((4, 3, 7), 2), ((8, 8, 8, 6, 5), 1)])
def test_equals_the_library(levels: tuple[int, ...], groups: int) -> None:
    width = len(levels) * groups
    library, ours = (
        library_of.FSQ(levels=list(levels), num_codebooks=groups).train(),
        FSQ(dim=width, levels=levels, groups=groups),
    )
    z = (torch.randn(2, 50, width) * 2).requires_grad_()
    expected, indices = library(z)
    expected_grad = torch.autograd.grad(expected.square().sum(), z)[0]
    out = ours.train()({"main": Stream(z)})
    torch.testing.assert_close(out.codes["main"].x_BND, expected)
    assert torch.equal(out.indices["main"], indices.long().view(2, 50, groups))
    torch.testing.assert_close(torch.autograd.grad(out.codes["main"].x_BND.square().sum(), z)[0], expected_grad)


def test_two_levels_and_any_others_are_the_papers_formula() -> None:
    """Appendix A.1, in fp64; the library refuses two levels."""
    quantizer, z = FSQ(dim=3, levels=[3, 2, 6]), torch.randn(1, 4000, 3) * 3
    levels = torch.tensor([3.0, 2.0, 6.0], dtype=torch.float64)
    half = (levels - 1) * 1.001 / 2
    offset = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64)
    bounded = (z.double() + (offset / half).atanh()).tanh() * half - offset
    torch.testing.assert_close(quantizer.bounded(z).double(), bounded, atol=1e-5, rtol=1e-4)
    out = quantizer.eval().quantize(z)
    clear = ((bounded - bounded.floor() - 0.5).abs() > 1e-4).all(dim=-1)  # of the other side of a rounding
    assert float(clear.float().mean()) > 0.99
    digits = bounded.round().long() + torch.tensor([1, 1, 3])
    assert torch.equal(out.indices_BNK[..., 0][clear], (digits @ torch.tensor([1, 3, 6]))[clear])
    torch.testing.assert_close(out.codes_BND.double()[clear], (bounded.round() / torch.tensor([1, 1, 3]))[clear])
    assert len(out.indices_BNK.unique()) == 36
    assert out.codes_BND[..., 1].unique().tolist() == [-1, 0]
    assert torch.equal(quantizer.lookup(out.indices_BNK), out.codes_BND)


def test_every_code_is_reached_and_numbered_first_channel_fastest() -> None:
    quantizer = FSQ(dim=3, levels=[4, 3, 5])
    every = torch.arange(60)[None, :, None]
    codes = quantizer.lookup(every)
    assert codes[0, :5].tolist() == [[-1, -1, -1], [-0.5, -1, -1], [0, -1, -1], [0.5, -1, -1], [-1, 0, -1]]
    assert torch.equal(quantizer.codes_to_indices(codes), every)
    wide = quantizer.quantize(torch.randn(1, 20000, 3) * 3).indices_BNK
    assert len(wide.unique()) == 60


def test_indices_above_what_floats_can_count() -> None:
    levels = [8] * 15  # 2^45 codes
    quantizer = FSQ(dim=15, levels=levels).eval()
    z = torch.randn(1, 200, 15) * 2
    out = quantizer({"main": Stream(z)})
    assert quantizer.vocabulary == (math.prod(levels),)
    assert torch.equal(quantizer.lookup(out.indices["main"]), out.codes["main"].x_BND)


def test_gradient_dies_outside_the_range_as_the_tanh_says() -> None:
    quantizer, z = FSQ(dim=1, levels=[5]).train(), torch.tensor([[[0.0], [1.0], [9.0]]], requires_grad=True)
    quantizer.quantize(z).codes_BND.sum().backward()
    slope = 1 - z.detach().tanh() ** 2
    torch.testing.assert_close(z.grad, slope * (4 * 1.001 / 2) / 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": [8, 1]}, r"levels=\[8, 1\].*at least 2"),
        ({"levels": [16] * 16}, "int64"),
        ({"groups": 0}, "groups=0"),
    ],
)
def test_impossible_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FSQ(dim=4, **settings)
