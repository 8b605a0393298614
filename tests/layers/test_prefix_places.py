"""Places of a prefix: cells that halve, and a start in which registers look at their own cell."""

import pytest
import torch

from imtok.layers.flex_block import normed
from imtok.layers.located_start import sincos_places
from imtok.layers.prefix_places import prefix_places
from imtok.tokenizers.encoders.registers import RegisterEncoder


@pytest.mark.parametrize("tokens", [1, 2, 8, 64])
def test_every_level_has_the_mean_place_of_the_picture(tokens: int) -> None:
    places, whole = prefix_places(tokens, 32), sincos_places((64, 64), 32).mean(dim=0)
    assert places.shape == (tokens, 32)
    for start in [0, *(2**i for i in range(tokens.bit_length() - 1))]:
        torch.testing.assert_close(places[start : max(1, 2 * start)].mean(dim=0), whole, atol=0.02, rtol=0)


def test_other_numbers_of_tokens_fail_with_a_line() -> None:
    with pytest.raises(ValueError, match="num_tokens=12"):
        prefix_places(12, 32)


def test_late_registers_look_into_their_own_cell_first() -> None:
    torch.manual_seed(0)
    made = RegisterEncoder(
        num_tokens=32, input_size=(64, 64), patch_size=8, width=96, depth=1, head_dim=32, register_std=0.1,
        located_start=True,
    )  # fmt: skip
    attention = made.blocks[0].attention
    q, k = (layer(normed(x)) for layer, x in ((attention.q, made.registers), (attention.k, made.positions_ND)))
    q, k = (normed(x.unflatten(1, (3, 32)).transpose(0, 1)) for x in (q, k))
    looked_at = (
        (q @ k.transpose(1, 2)).mean(dim=0)[16:].argmax(dim=1)
    )  # the last 16: a grid of 4 x 4, 2 x 2 patches each
    rows, columns = looked_at // 16, looked_at % 8 // 2
    assert (rows * 4 + columns == torch.arange(16)).float().mean() > 0.9
