"""IBQ and TokenBridge against the outputs and gradients of their reference implementations."""

import json

import pytest
import torch
from safetensors.torch import load_file

from imtok.parity.codebooks import FUNCTIONS

INPUTS = {"ibq": {"z", "codebook", "probe"}, "tokenbridge_quantize": {"x", "bits", "range", "std_range"}}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_output_of_the_reference(parity_folder, name: str) -> None:
    folder = parity_folder / "functions" / name
    config, io = json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")
    ours, used = FUNCTIONS[name](config, io, None)
    assert used == set()
    assert {key for key in io if key.rstrip("0123456789") not in INPUTS[name]} == set(ours)
    for key, value in ours.items():
        expected = io[key]
        if expected.dtype == torch.int64:
            assert torch.equal(value, expected), key
        else:
            scale = expected.std() if expected.numel() > 1 else expected.abs()
            assert float((value - expected).abs().max() / scale) <= 1e-4, key
