"""GigaTok's first queries: means over ever smaller parts."""

import pytest
import torch

from imtok.layers.qformer import check_pyramid, pyramid


def test_the_pyramid_splits_the_width_first() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    means = pyramid(x, 8)[0, :, 0].tolist()
    assert means[:2] == [7.5, 7.5]  # the whole picture, twice: 1 + 1 + 2 + 4
    assert means[2:4] == [6.5, 8.5]  # left, right
    assert means[4:] == [2.5, 4.5, 10.5, 12.5]  # quarters, row by row


def test_tokens_that_cannot_be_halved() -> None:
    check_pyramid(256, (16, 16))
    for tokens, grid in ((12, (4, 4)), (256, (12, 16)), (256, (4, 4))):
        with pytest.raises(ValueError, match=f"num_tokens={tokens}"):
            check_pyramid(tokens, grid)
