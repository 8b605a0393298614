"""Instella's block, positions and halving, each against its formula written out."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from imtok.layers.llama_block import HalveGrid, RotaryBlock, ThreeAxes, check_axes, check_resizing


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * weight


def turned(x: Tensor, angles: Tensor) -> Tensor:
    """As published: channels d and d + 3 of the six are a pair, but each turns by the angle of its own place."""
    out = torch.empty_like(x)
    for d in range(3):
        one, other = angles[:, d], angles[:, d + 3]
        out[..., d] = x[..., d] * one.cos() - x[..., d + 3] * one.sin()
        out[..., d + 3] = x[..., d + 3] * other.cos() + x[..., d] * other.sin()
    return out


def test_a_block_is_its_formula() -> None:
    block, x = RotaryBlock(width=12, num_heads=2).eval(), torch.randn(2, 5, 12) * 1e-3  # so small that eps counts
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    angles = (torch.rand(5, 3) * 6).repeat_interleave(2, dim=1)
    rotation = (angles.cos(), angles.sin())
    visible = torch.tensor([[True] * 5, [True, True, False, True, False]])
    heads = []
    seen = rms(x, block.norm1.weight)
    for head in range(2):
        own = slice(6 * head, 6 * head + 6)
        q, k, v = ((seen @ layer.weight.T)[..., own] for layer in (block.q, block.k, block.v))
        q, k = turned(rms(q, block.q_norm.weight), angles), turned(rms(k, block.k_norm.weight), angles)
        scores = (q @ k.mT / math.sqrt(6)).masked_fill(~visible[:, None], -torch.inf)
        heads.append(scores.softmax(dim=-1) @ v)
    x_after = x + torch.cat(heads, dim=-1) @ block.project.weight.T
    seen = rms(x_after, block.norm2.weight)
    expected = x_after + (F.silu(seen @ block.gate.weight.T) * (seen @ block.up.weight.T)) @ block.down.weight.T
    torch.testing.assert_close(block(x, rotation, visible), expected, rtol=1e-4, atol=1e-6)
    assert block.gate.weight.shape == block.up.weight.shape == block.down.weight.T.shape == (48, 12)


@pytest.mark.parametrize("span", [None, 9])
def test_three_axes_turn_by_number_row_and_column(span: int | None) -> None:
    cosines, sines = ThreeAxes(axes=(2, 4, 4))(3, (2, 5), span=span, device=torch.device("cpu"))
    assert cosines.shape == sines.shape == (3 + 10, 10)
    for token in range(13):
        row, column = divmod(token - 3, 5)
        if span is not None:
            row, column = row * (span - 1), column / 4 * (span - 1)
        number, row, column = (token, 0, 0) if token < 3 else (0, row, column)
        angles = [number] + [place / 10000**power for place in (row, column) for power in (0, 0.5)]
        expected = torch.tensor(angles).repeat_interleave(2)
        torch.testing.assert_close(cosines[token], expected.cos(), rtol=0, atol=1e-5)
        torch.testing.assert_close(sines[token], expected.sin(), rtol=0, atol=1e-5)


def test_halving_adds_the_mean_of_four_channels_of_a_cell() -> None:
    halve, x = HalveGrid(width=4), torch.randn(1, 4, 6, 6)
    cells = torch.stack([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], dim=2)  # [B, C, 4, h, w]
    torch.testing.assert_close(halve(x), F.conv2d(x, halve.conv.weight, halve.conv.bias, 2, 1) + cells.mean(dim=2))


def test_impossible_settings() -> None:
    ThreeAxes(axes=(0, 2, 2))
    for axes in ((2, 2), (2, 3, 3)):
        with pytest.raises(ValueError, match=r"axes=\[2"):
            ThreeAxes(axes=axes)
    check_axes((2, 2, 2), 12, 2)
    for axes, width in (((2, 2, 4), 12), ((2, 2, 2), 13)):
        with pytest.raises(ValueError, match=r"axes=\[2, 2"):
            check_axes(axes, width, 2)
    assert check_resizing([0, 3], 4, key="halve_after") == (0, 3)
    for after in ([4], [-1], [1, 1]):
        with pytest.raises(ValueError, match="halve_after="):
            check_resizing(after, 4, key="halve_after")
