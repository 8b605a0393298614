"""Flow decoders draw what they drew when `imtok parity` last agreed with the published network."""

import json

import pytest
import torch

from .. import test_contract as contract

FLOW = [case for case in contract.DECODERS if case.startswith("flow")]


@pytest.mark.parametrize("case", FLOW)
def test_images_and_starts_are_those_of_the_reference(case: str) -> None:
    contract.assert_starts(case, "decoder")
    expected = json.loads(contract.REFERENCE.read_text())["images"][case]
    torch.testing.assert_close(contract.summary(case), expected, atol=1e-3, rtol=1e-3)
