"""What is called proven has its folder, whose reader builds the same classes, and a stored step of the same losses."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import nn

from imtok.configs.compose import compose_config
from imtok.parity.proven import FORWARD, TRAINING_STEP, folder_of, proven
from imtok.scripts.recipes import experiment_files, name_of
from imtok.tokenizers import released

NAMES = [name_of(file) for file in experiment_files()]
PARTS = ("encoder", "quantizer", "decoder")
FOLDERS = [f if f == "vqgan" else pytest.param(f, marks=pytest.mark.slow) for f in dict.fromkeys(FORWARD.values())]
composed = cache(lambda name: compose_config("train", [f"experiment={name}"]))


def test_every_pattern_is_some_experiments_first() -> None:
    for table in (FORWARD, TRAINING_STEP):
        used = {next((p for p in table if folder_of(name, {p: table[p] or "none"})), None) for name in NAMES}
        assert used >= set(table), set(table) - used
    assert proven("llamagen_vq8") == ["forward", "objective", "optimizer"]
    assert proven("flextok_d12_d12") == ["forward"] and proven("quickstart") == proven("tokenbridge") == []
    assert proven("wetok_general_f32_generative") == ["forward"]


def classes(node: Any) -> set[str]:
    """Names of all classes in a config."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = {node["_target_"].rpartition(".")[2]} if isinstance(node, dict) and "_target_" in node else set()
    return own.union(*map(classes, children))


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_reader_builds_what_the_experiments_train(folder: str, parity_folder: Path) -> None:
    config = json.loads((parity_folder / folder / "config.json").read_text())
    constructor = {k: v for part in ("constructor", "sizes", "size_overrides") for k, v in config.get(part, {}).items()}
    size = config.get("image_size", 256)
    tokenizer, _ = released.find(config["system"]).import_state(
        load_file(parity_folder / folder / "weights.safetensors"),
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        constructor=constructor,
    )
    built = {part: class_names(getattr(tokenizer, part)) for part in PARTS}
    for name in NAMES:
        if folder_of(name, FORWARD) == folder:
            wanted = {part: classes(composed(name)["tokenizer"][part]) for part in PARTS}
            assert all(wanted[part] <= built[part] for part in PARTS), (name, wanted, built)


def class_names(module: nn.Module) -> set[str]:
    return {type(child).__name__ for child in module.modules()}


STEPS = pytest.importorskip("imtok.parity.training_folders").STEPS
STEP_NAMES = [name for name in NAMES if folder_of(name, TRAINING_STEP)]
QUICK = {"llamagen_vq8", "titok_s128/stage2", "xqgan_msvr10p2_8192"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in STEP_NAMES])
def test_a_stored_step_has_the_experiments_losses(name: str) -> None:
    ours, theirs = composed(name), composed(STEPS[folder_of(name, TRAINING_STEP)].experiment)
    for part in ("loss", "adversary"):
        assert classes(ours[part]) == classes(theirs[part]), part
    assert terms(ours) == terms(theirs)
    assert ours["optimizer"]["name"] == theirs["optimizer"]["name"]
    assert classes(ours["tokenizer"]["quantizer"]) == classes(theirs["tokenizer"]["quantizer"])


def terms(config: dict[str, Any]) -> set[str]:
    return {name for name, entry in config["loss"].items() if entry is not None}
