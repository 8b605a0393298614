"""A value of the wrong kind, at any usual key, is one line that names the key, before anything is written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from imtok.common.errors import UserError
from imtok.configs.compose import _composed, check_top_level, compose_config, settle
from imtok.training.factory import build_trainer, build_training

WORDS = ["debug=tiny", "trainer.accelerator=cpu", "trainer.threads=1"]
WRONG = ("nonsense words", -3, [1, "a"], {"a": 1}, True)
NODES = ("trainer", "data", "optimizer", "loss")
# Any text is a name, or (a quantizer's loss that is not offered) is left out with a note.
FREE = {"name", "ckpt_path", "recipe"} | {f"loss.{name}.term.key" for name in ("codebook", "commit", "entropy", "kl")}


def leaves(node: Any, key: str = "") -> Iterator[str]:
    if isinstance(node, dict) and node:
        for name, child in node.items():
            if name not in ("tiny", "hydra", "debug", "_target_"):
                yield from leaves(child, f"{key}.{name}" if key else name)
    else:
        yield key


PLAIN = compose_config("train", WORDS)
KEYS = [k for k in leaves(PLAIN) if k.partition(".")[0] in NODES or "." not in k]


def begin(config: dict[str, Any], folder: Path) -> None:
    training, _ = build_training(config, folder)
    build_trainer(training.settings, loggers=[], callbacks=[], folder=folder)


def refused(key: str, value: Any, folder: Path) -> bool:
    if key.startswith("data."):  # its keys feed interpolations; the others are looked at where they stand, quicker
        with _composed("train", WORDS) as cfg:
            OmegaConf.update(cfg, key, value, merge=False)
            config = settle(cfg, [*WORDS, f"{key}={value}"])
    else:
        config = OmegaConf.create(PLAIN)
        OmegaConf.update(config, key, value, merge=False)
        config = OmegaConf.to_container(config)
    try:
        check_top_level(config)
        begin(config, folder)
    except UserError as error:
        said = str(error)
        assert "\n" not in said and key.rpartition(".")[2] in said, f"{key}={value}: {said}"
        return True
    return False


@pytest.mark.parametrize("key", KEYS)
def test_text_where_it_does_not_belong(key, tmp_path):
    assert refused(key, WRONG[0], tmp_path / "run") or key in FREE
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_everything_else_that_does_not_belong(key, tmp_path):
    for value in WRONG[1:]:
        refused(key, value, tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["experiment=dualvitok_256"], "encoder.semantic.tower"),
        (
            ["experiment=quickstart_dual", "tokenizer.encoder.encoders.semantic.pretrained=null"],
            "encoder.encoders.semantic",
        ),
    ],
)
def test_a_frozen_tower_without_weights_is_refused_before_training(words, part, tmp_path):
    from imtok.training.factory import build_training

    words = [*words, "data=generated", "debug=tiny"]
    build_training(compose_config("train", words), tmp_path)  # tiny sets weights=random
    with pytest.raises(UserError, match=rf"tokenizer\.{part}\.pretrained=null: this part does not train"):
        build_training(compose_config("train", [*words, "weights=pretrained"]), tmp_path)
