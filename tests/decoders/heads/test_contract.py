"""What every head promises, checked for every YAML in configs/tokenizer/head; its reference is the decoders'."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from imtok.common.types import Stream

from .. import test_contract as contract


@pytest.mark.parametrize("case", contract.HEADS)
def test_heads_read_every_token_of_their_stream(case: str, tmp_path: Path) -> None:
    head, codes = contract.make(case, "head"), contract.codes_for(case)
    for stream in codes.values():
        stream.x_BND.requires_grad_()
    out = head(codes)
    assert out.dtype == torch.float32 and out.shape in {(3, 16, head.out_dim), (3, head.out_dim)}
    out.square().sum().backward()
    for name, stream in codes.items():
        if name == head.stream:
            assert bool((stream.x_BND.grad.abs().sum(dim=2) > 0).all())
        else:
            assert stream.x_BND.grad is None
    state = head.state_dict()
    other = contract.make(case, "head")
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    other.load_state_dict(state, strict=True)
    with torch.no_grad():
        assert torch.equal(other(codes), out) and torch.equal(head(codes), out)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert float((head(codes).float() - out).square().mean() / out.var()) < 0.01
        if head.any_length:
            cut = {n: Stream(s.x_BND[:, :5], mask_BN=None) for n, s in codes.items()}
            masked = {n: Stream(s.x_BND, mask_BN=(torch.arange(16) < 5).expand(3, -1)) for n, s in codes.items()}
            torch.testing.assert_close(head(masked), head(cut))


@pytest.mark.parametrize("case", contract.HEADS)
def test_outputs_of_heads_are_those_of_the_reference(case: str) -> None:
    expected = json.loads(contract.REFERENCE.read_text())["heads"][case]
    torch.testing.assert_close(contract.head_summary(case), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("case", contract.HEADS)
def test_weights_start_as_large_as_in_the_reference(case: str) -> None:
    contract.assert_starts(case, "head")


@pytest.mark.parametrize("name", [path.stem for path in sorted((contract.FOLDER / "head").glob("*.yaml"))])
def test_full_size_parameters_are_those_of_the_reference(name: str) -> None:
    contract.assert_full_size("head", name)
