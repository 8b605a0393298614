"""What many tests need: one thread, a small real tokenizer, and where the parity fixtures lie."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported; workers of pytest-xdist share the cores
import torch

pytest.register_assert_rewrite("tests.contracts")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _quiet_and_single_threaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("IMTOK_DEBUG", raising=False)
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def tokenizer_node() -> dict[str, Any]:
    """The YAML node of a small VQ tokenizer: 32x32 pixels to 8x8 tokens of 64 codes."""
    sizes = {"channels": 32, "channel_multipliers": [1, 1, 2], "blocks_per_level": 1, "z_channels": 16}
    return {
        "_target_": "imtok.tokenizers.tokenizer.Tokenizer",
        "image_size": 32,
        "encoder": {"_target_": "imtok.tokenizers.encoders.cnn.CNNEncoder", "dim": 8, **sizes},
        "quantizer": {"_target_": "imtok.tokenizers.quantizers.vq.VQ", "codebook_size": 64},
        "decoder": {"_target_": "imtok.decoders.cnn.CNNDecoder", **sizes},
    }


@pytest.fixture(scope="session")
def variable_node() -> dict[str, Any]:
    """The YAML node of a tokenizer of 1 to 64 tokens for 32x32 pixels (variable_length.py says what it is)."""
    place = ROOT / "tests" / "variable_length.py"
    name = "imtok.tokenizers.variable_length_of_the_tests"  # from_pretrained loads classes of imtok's parts only
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, place)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return {
        "_target_": "imtok.tokenizers.tokenizer.Tokenizer",
        "image_size": 32,
        "encoder": {"_target_": f"{name}.CosineEncoder", "num_tokens": 64},
        "quantizer": {"_target_": f"{name}.Steps"},
        "decoder": {"_target_": f"{name}.CosineDecoder", "image_size": 32},
        "token_dropout": {"_target_": f"{name}.CutTail"},
    }


@pytest.fixture
def parity_folder() -> Path:
    """The reference implementations' outputs; they lie beside the clone, not in it."""
    folder = Path(os.environ.get("IMTOK_PARITY", ROOT.parent / "shared" / "parity"))
    if not folder.is_dir():
        pytest.skip(f"no parity fixtures at {folder}; set IMTOK_PARITY to their folder")
    return folder
