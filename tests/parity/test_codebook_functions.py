"""IBQ and TokenBridge against the outputs and gradients of their reference implementations."""

import pytest

from imtok.parity.codebooks import FUNCTIONS
from imtok.parity.rows import compare
from imtok.scripts.parity import read_folder

INPUTS = {"ibq": {"z", "codebook", "probe"}, "tokenbridge_quantize": {"x", "bits", "range", "std_range"}}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_output_of_the_reference(parity_folder, name: str) -> None:
    config, io, _ = read_folder(parity_folder / "functions" / name)
    ours = FUNCTIONS[name](config, io, {})
    stored = [key for key in io if key.rstrip("0123456789") not in INPUTS[name]]
    rows = [compare(key, ours[key], io[key]) for key in stored]
    assert rows and all(row.ok for row in rows), [row for row in rows if not row.ok]
