"""How a parity fixture is held against a reader: every stored output, every key, the README's tolerance."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from imtok.tokenizers import released
from imtok.tokenizers.tokenizer import Tokenizer


def read(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The reference's arguments with `image_size`, weights, inputs and outputs."""
    config = json.loads((folder / "config.json").read_text())
    size = config["image_size"]
    constructor = {k: v for part in ("constructor", "sizes", "size_overrides") for k, v in config.get(part, {}).items()}
    constructor["image_size"] = (size, size) if isinstance(size, int) else tuple(size)
    return constructor, load_file(folder / "weights.safetensors"), load_file(folder / "io.safetensors")


def imported(folder: Path, system: str) -> Tokenizer:
    constructor, state, _ = read(folder)
    return released.find(system).import_state(state, image_size=constructor["image_size"], constructor=constructor)[0]


def check_fixture(
    folder: Path, system: str, *, inputs: tuple[str, ...] = (), only: tuple[str, ...] | None = None
) -> None:
    """only: of all outputs those whose names begin so."""
    constructor, state, io = read(folder)
    family = released.find(system)
    tokenizer, report = family.import_state(state, image_size=constructor["image_size"], constructor=constructor)
    assert set(report.used) | set(report.beside) == set(state)
    outputs = family.outputs(tokenizer, io, constructor)
    if only is None:
        assert set(io) - {"image", *inputs} <= {name.split(" (")[0] for name in outputs}
    else:
        outputs = {name: tensor for name, tensor in outputs.items() if name.startswith(only)}
        assert outputs
    for name, actual in outputs.items():
        expected = io[name.split(" (")[0]]
        assert actual.shape == expected.shape, name
        if expected.dtype == torch.int64:
            assert torch.equal(actual, expected), name
        else:
            scale = expected.std() if expected.numel() > 1 else expected.abs()
            assert float((actual - expected).abs().max() / scale) <= 1e-4, name
