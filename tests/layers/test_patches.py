"""Patches and their positions."""

import pytest
import torch

from imtok.layers.patches import from_patches, grid_of, sincos_grid, to_patches


def test_there_and_back() -> None:
    x = torch.randn(2, 3, 8, 12)
    patches = to_patches(x, 4)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(patches[:, 1].view(2, 4, 4, 3), x[:, :, :4, 4:8].permute(0, 2, 3, 1))
    assert torch.equal(from_patches(patches, 4, (2, 3)), x)


def test_positions_say_row_then_column() -> None:
    table = sincos_grid((3, 5), 16).view(3, 5, 16)
    assert torch.equal(table[:, 0, :8], table[:, 4, :8])
    assert torch.equal(table[0, :, 8:], table[2, :, 8:])
    torch.testing.assert_close(table[2, 3, 0], torch.tensor(2.0).sin())
    torch.testing.assert_close(table[2, 3, 12], torch.tensor(3.0).cos())


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="patch_size=4: both sides of an input of"):
        grid_of((8, 10), 4)
    with pytest.raises(ValueError, match="width=18"):
        sincos_grid((2, 2), 18)
