"""Nested dropout and tail drop against the outputs of their reference implementations."""

import json

import torch
from safetensors.torch import load_file

from imtok.parity.token_dropout import FUNCTIONS

INPUTS = {"x", "keep_k", "mask_token", "tail_z"}


def test_every_output_of_the_reference(parity_folder) -> None:
    folder = parity_folder / "functions" / "nested_dropout"
    config, io = json.loads((folder / "config.json").read_text()), load_file(folder / "io.safetensors")
    ours = FUNCTIONS["nested_dropout"](config, io, {})
    assert set(io) - INPUTS == set(ours)
    for name, value in ours.items():
        assert torch.equal(value, io[name]), name
