import torch

from imtok.common.pixels import to_model_range, to_uint8


def test_every_byte_survives_the_round_trip():
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    there = to_model_range(every)
    assert there.min() == -1 and there.max() == 1
    assert torch.equal(to_uint8(there), every)


def test_rounded_and_clamped():
    level = 2 / 255
    values = torch.tensor([-1.7, -1 + 0.49 * level, -1 + 0.51 * level, 1 - 0.49 * level, 1.7])
    assert to_uint8(values).tolist() == [0, 0, 1, 255, 255]
