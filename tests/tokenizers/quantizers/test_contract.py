"""The promises of tests/contracts/quantizers.py, for every YAML in configs/tokenizer/quantizer."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.common.types import Stream

from ...contracts.quantizers import CHECKS, DIM, GRID, Node, latents, make, same_codes, same_indices

FOLDER = Path(__file__).resolve().parents[3] / "configs" / "tokenizer" / "quantizer"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
QUANTIZERS = "imtok.tokenizers.quantizers"
WAIT = ("gumbel_vq", "library_vq")  # one draws its seed on the CPU, one is not ours


def shipped(name: str) -> Node:
    node: Node = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    return node | node.get("tiny", {})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_keeps_what_quantizers_promise(check: Callable[[Node], None], name: str) -> None:
    if name in WAIT and check.__name__ == "training_never_waits_for_the_device":
        pytest.skip("it waits")
    check(shipped(name))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing_on_cuda(name: str) -> None:
    quantizer = make(shipped(name)).cuda()
    given = {stream: Stream(given.x_BND.cuda(), GRID) for stream, given in latents(quantizer).items()}
    quantizer.train()(given)
    quantizer.eval()
    expected = quantizer(given)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        actual = quantizer(given)
    assert same_indices(actual, expected)
    assert same_codes(actual, expected)


def test_there_are_some() -> None:
    assert {"vq", "ema_vq"} <= set(NAMES)


def test_a_learnable_codebook_has_no_running_means() -> None:
    for settings, complaint in (
        ({"_target_": f"{QUANTIZERS}.vq.VQ", "decay": 0.99}, "decay=0.99: VQ has no such setting"),
        ({"_target_": f"{QUANTIZERS}.ema_vq.EmaVQ", "learnable": True}, "learnable=True: EmaVQ has no such setting"),
        ({"_target_": f"{QUANTIZERS}.residual_vq.ResidualVQ", "decay": 0.99}, "decay=0.99: .* only update=ema"),
    ):
        with pytest.raises(UserError, match=rf"tokenizer\.quantizer\.{complaint}"):
            build(settings, key="tokenizer.quantizer", dim=DIM)
