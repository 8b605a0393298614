"""Registers: what each may see, and which sizes work."""

import pytest
import torch

from imtok.tokenizers.encoders.registers import RegisterEncoder


def encoder(**changes: object) -> RegisterEncoder:
    sizes = {"dim": 4, "num_tokens": 5, "input_size": (8, 8), "patch_size": 4, "width": 32, "depth": 2, "head_dim": 16}
    made = RegisterEncoder(**(sizes | changes)).eval()
    torch.nn.init.normal_(made.to_latents.weight)  # zero at first, and then nothing would move
    return made


@pytest.mark.parametrize("changed", range(5))
def test_a_register_moves_itself_and_later_ones_only(changed: int) -> None:
    made, image = encoder(), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = made(image)["main"].x_BND
        made.registers[changed] += 1.0
        moved = (made(image)["main"].x_BND != before).any(dim=(0, 2))
    assert moved.tolist() == [place >= changed for place in range(5)]


def test_without_causal_all_move() -> None:
    made, image = encoder(causal=False), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = made(image)["main"].x_BND
        made.registers[4] += 1.0
        assert (made(image)["main"].x_BND != before).any(dim=(0, 2)).all()


def test_every_register_sees_the_whole_picture() -> None:
    made, image = encoder(), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        before = made(image)["main"].x_BND
        image[:, :, 7, 7] += 1.0
        assert (made(image)["main"].x_BND != before).any(dim=(0, 2)).all()


def test_other_sizes_fail_with_a_line() -> None:
    with pytest.raises(ValueError, match=r"positions are those of inputs of \[8, 8\]"):
        encoder().stream_shapes((16, 16))
    with pytest.raises(ValueError, match="patch_size=4"):
        encoder(input_size=(10, 8))
    assert encoder(input_size=(8, 16)).stream_shapes((8, 16))["main"].num_tokens == 5
