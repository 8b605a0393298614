"""Every quantizer that reads one stream goes into `quickstart` by its name alone, with the losses that it offers."""

from pathlib import Path

import pytest
import torch
import yaml

from imtok.common.build import locate
from imtok.configs.compose import compose_config
from imtok.training.factory import build_training

YAMLS = Path(__file__).parents[2] / "configs" / "tokenizer" / "quantizer"


def one_stream(path: Path) -> bool:
    node = yaml.safe_load(path.read_text())
    return list(node.get("quantizers") or locate(node["_target_"], key="tokenizer.quantizer").reads) == ["main"]


@pytest.mark.parametrize("name", sorted(path.stem for path in YAMLS.glob("*.yaml") if one_stream(path)))
def test_a_swapped_quantizer_trains(name: str, tmp_path: Path) -> None:
    config = compose_config("train", ["debug=tiny", f"tokenizer/quantizer={name}"])
    training = build_training(config, tmp_path)[0].train()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    output = training.tokenizer(images)
    values = training.losses({"image": images}, output, 0)
    offered = set(training.tokenizer.quantizer.loss_names) & {"codebook", "commit", "entropy", "kl"}
    assert set(values.raw) == {"l1", "l2"} | offered
    values.total.backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in training.tokenizer.encoder.parameters())
