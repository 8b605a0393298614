"""Our losses against the stored outputs of the published code."""

import pytest
import torch

from imtok.parity.losses import FUNCTIONS
from imtok.parity.rows import Watched, compare
from imtok.scripts.parity import read_folder

INPUTS = {
    "gan_losses": {"logits_real", "logits_fake"},
    "adaptive_gan_weight": {"h", "conv_weight", "conv_bias", "target", "dk"},
    "lecam": {"logits_real", "logits_fake", "ema_real", "ema_fake", "seq_real", "seq_fake"},
    "patchgan_batchnorm": {"image"},
    "patchgan_actnorm": {"image"},
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_the_published_function(name, parity_folder):
    """Not an output of ours may be missing: inputs are named here, all else must come back."""
    config, io, stored_weights = read_folder(parity_folder / "functions" / name)
    weights = Watched(stored_weights)
    with torch.no_grad():
        ours = FUNCTIONS[name](config, io, weights)
    rows = [compare(output, ours[output], io[output]) for output in set(io) - INPUTS[name]]
    assert rows and all(row.ok for row in rows), [row for row in rows if not row.ok]
    assert weights.read == set(stored_weights)
