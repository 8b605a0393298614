"""Our losses against the stored outputs of the published code."""

import json

import pytest
import torch
from safetensors.torch import load_file

from imtok.parity.losses import FUNCTIONS


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_the_published_function(name, parity_folder):
    folder = parity_folder / "functions" / name
    config = json.loads((folder / "config.json").read_text())
    io = load_file(folder / "io.safetensors")
    weights = load_file(folder / "weights.safetensors") if (folder / "weights.safetensors").exists() else None
    ours, used = FUNCTIONS[name](config, io, weights)
    assert ours
    assert used == set(weights or ())
    for output, value in ours.items():
        scale = io[output].std() if io[output].numel() > 1 else io[output].abs()
        difference = (value.detach() - io[output]).abs().max() / scale
        print(f"{name}.{output}: {float(difference):.1e}")
        assert value.shape == io[output].shape
        assert difference <= 1e-4, output


def test_every_stored_output_is_compared(parity_folder):
    """Not an output of ours may be missing: inputs are named here, all else must come back."""
    inputs = {
        "gan_losses": {"logits_real", "logits_fake"},
        "adaptive_gan_weight": {"h", "conv_weight", "conv_bias", "target", "dk"},
        "lecam": {"logits_real", "logits_fake", "ema_real", "ema_fake", "seq_real", "seq_fake"},
        "patchgan_batchnorm": {"image"},
        "patchgan_actnorm": {"image"},
    }
    for name, given in inputs.items():
        folder = parity_folder / "functions" / name
        io = load_file(folder / "io.safetensors")
        weights = load_file(folder / "weights.safetensors") if (folder / "weights.safetensors").exists() else None
        with torch.no_grad():
            ours, _ = FUNCTIONS[name](json.loads((folder / "config.json").read_text()), io, weights)
        assert set(ours) == set(io) - given
