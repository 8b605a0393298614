"""Every experiment file: its form, what it composes to, and two updates, an export and a reload of it on the CPU."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from imtok import from_pretrained
from imtok.common.build import build, locate
from imtok.configs.compose import compose_config
from imtok.losses.base import LossTerm
from imtok.training import checkpoint
from imtok.training.run import run

FOLDER = Path(__file__).parents[2] / "configs" / "experiment"
FILES = sorted(FOLDER.rglob("*.yaml"))
# Files in shared/ are what several experiments have in common, and no experiments.
NAMES = [name for f in FILES if not (name := f.relative_to(FOLDER).with_suffix("").as_posix()).startswith("shared/")]
# The same classes in other sizes: debug=tiny makes nearly the same run of both, so `make slow` trains these.
LIKE = {
    "dualtoken_384": "dualtoken_256",
    "dualtoken_384_stage0": "dualtoken_256_stage0",
    "dualvitok_512": "dualvitok_256",
    "flextok_d18_d18": "flextok_d12_d12",
    "flextok_d18_d28": "flextok_d12_d12",
    "gigatok_bl": "gigatok_ss",
    "gigatok_sb": "gigatok_ss",
    "ibq_1024": "ibq_16384",
    "ibq_262144": "ibq_16384",
    "ibq_8192": "ibq_16384",
    "llamagen_vq8": "llamagen_vq16",
    "one_d_piece_b256/stage1": "one_d_piece_s256/stage1",
    "one_d_piece_b256/stage2": "one_d_piece_s256/stage2",
    "one_d_piece_l256/stage1": "one_d_piece_s256/stage1",
    "one_d_piece_l256/stage2": "one_d_piece_s256/stage2",
    "open_magvit2_128": "open_magvit2_256",
    "ta_titok_bl128_vq": "ta_titok_bl32_vq",
    "ta_titok_bl64_vae": "ta_titok_bl32_vae",
    "ta_titok_bl64_vq": "ta_titok_bl32_vq",
    "ta_titok_sl128_vae": "ta_titok_bl32_vae",
    "titok_b64/stage1": "titok_s128/stage1",
    "titok_b64/stage2": "titok_s128/stage2",
    "titok_bl128_vae": "titok_bl64_vae",
    "titok_bl128_vq": "titok_bl64_vq",
    "titok_l32/stage1": "titok_s128/stage1",
    "titok_l32/stage2": "titok_s128/stage2",
    "titok_ll32_vae": "titok_bl64_vae",
    "titok_sl256_vq": "titok_bl64_vq",
    "tokenflow_b_decoder": "tokenflow_b_enhanced",
    "vqgan_f16_1024": "vqgan_f16_16384",
    "wetok_general_f16_32bit": "wetok_general_f8_32bit",
    "wetok_general_f32_32bit": "wetok_general_f8_32bit",
    "wetok_general_f8_64bit": "wetok_general_f8_32bit",
    "wetok_imagenet_f8": "wetok_imagenet_f16",
    "xqgan_msbr10p2_16384": "xqgan_msbr10p2_4096",
    "xqgan_msvr10p2_16384": "xqgan_msvr10p2_8192",
    "xqgan_vp2_16384": "xqgan_vp2_4096",
    "xqgan_vq_8192": "xqgan_vq_4096",
}
# Other combinations of classes each of which trains in one of the rest.
OF_CLASSES_THAT_TRAIN = {
    "dualtoken_256_stage0",
    "gigatok_bl_dino",
    "gigatok_xlxxl",
    "imagefolder",
    "titok_bl64_vae",
    "tokenbridge",
    "tokenflow_b_enhanced",
    "tokenflow_l",
    "tokenflow_xl",
    "unitok",
    "xqgan_vp2_4096",
    "xqgan_vq_4096",
}
SLOW = {*LIKE, *OF_CLASSES_THAT_TRAIN}
TRAINED = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NAMES]

published = cache(lambda name: compose_config("train", [f"experiment={name}"]))


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMTOK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_there_are_experiments() -> None:
    assert {"quickstart", "vqgan_f16_1024", "vqgan_f16_16384", "llamagen_vq16", "llamagen_vq8"} <= set(NAMES)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(FOLDER).as_posix())
def test_form(file: Path) -> None:
    lines = file.read_text().splitlines()
    assert lines[0] == "# @package _global_", "without it, keys land below `experiment:` and do nothing"
    assert len(lines) <= 40
    if file.relative_to(FOLDER).parts[0] != "shared":
        recipe = yaml.safe_load(file.read_text())["recipe"]
        assert {"paper", "published_rfid", "complete"} <= set(recipe), "`imtok recipes` shows these"


@pytest.mark.parametrize("name", NAMES)
def test_composes_as_published(name: str) -> None:
    """Without debug=tiny: every part is named, and every loss has a weight and a class."""
    config = published(name)
    for part in ("encoder", "quantizer", "decoder"):
        assert locate(config["tokenizer"][part]["_target_"], key=part)
    assert config["loss"], "nothing to train on"
    for key, entry in config["loss"].items():
        if entry is None:  # taken away from a parent experiment
            continue
        assert set(entry) <= {"weight", "term"}, f"loss.{key}: a weight for a term that is not in `override /loss`?"
        assert "_target_" in entry.get("term", {}), f"loss.{key} has no term"
        assert issubclass(locate(entry["term"]["_target_"], key=key), LossTerm)


def classes(node: Any) -> set[str]:
    """All `_target_`s in a config."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = {node["_target_"]} if isinstance(node, dict) and "_target_" in node else set()
    return own.union(*map(classes, children))


@pytest.mark.parametrize("name", LIKE)
def test_those_trained_only_slowly_differ_in_sizes_alone(name: str) -> None:
    assert LIKE[name] in NAMES and LIKE[name] not in LIKE
    ours, theirs = (published(n) for n in (name, LIKE[name]))
    for part in ("tokenizer", "loss", "adversary", "teacher", "optimizer", "callbacks"):
        assert classes(ours.get(part)) == classes(theirs.get(part)), part


def test_every_class_trains_in_a_fast_experiment() -> None:
    missing = set().union(*map(classes, map(published, NAMES)))
    assert missing == set().union(*(classes(published(name)) for name in NAMES if name not in SLOW))


@pytest.mark.parametrize("name", TRAINED)
def test_trains_exports_and_comes_back_the_same(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [f"experiment={name}", "debug=tiny", "data=generated", "evaluate_after=false", "trainer.threads=1"]
    config = compose_config("train", words)
    assert run(config, overrides=words, folder=tmp_path) == 0, capsys.readouterr().err

    state = checkpoint.read(tmp_path / "checkpoints" / "last.ckpt")
    assert state["update"] == 2 and state["skipped_updates"] == 0
    before = trained_tokenizer(config, state)
    after = from_pretrained(tmp_path / "tokenizer")
    assert set(after.state_dict()) == set(state["tokenizer"]), "no discriminator, teacher or LPIPS goes out"
    check_keys(set(load_file(tmp_path / "tokenizer" / "model.safetensors")), after)
    batch = next(iter(build(config["data"], key="data").val_loader(max_images=2)))
    images = batch["image"].float() / 127.5 - 1
    with torch.no_grad():
        conditions = after.conditions_of(batch)
    assert torch.equal(picture(after, images, conditions), picture(before, images, conditions))
    assert torch.isfinite(picture(after, images, conditions)).all()


PARTS = {"space", "encoder", "quantizer", "token_dropout", "conditioner", "decoder", "heads"}
NOT_OURS = re.compile(r"teacher|text_|lpips|discriminator|adversary|logit_scale|log_scale|loss|projector")


def check_keys(keys: set[str], tokenizer: torch.nn.Module) -> None:
    """Every tensor of an export belongs to a part of the tokenizer, and what training alone needs is not among them."""
    assert {key.partition(".")[0] for key in keys} <= PARTS
    assert not [key for key in keys if NOT_OURS.search(key) and not key.startswith("conditioner.")]
    needed = {name for name, _ in tokenizer.named_children()}
    assert needed <= PARTS


def trained_tokenizer(config: dict[str, Any], state: dict[str, Any]) -> torch.nn.Module:
    """From the checkpoint: the running mean's weights, where the experiment has one."""
    tokenizer = build(config["tokenizer"], key="tokenizer")
    mean = state["ema"]
    assert (mean is None) == (config["trainer"]["ema"] is None)
    tokenizer.load_state_dict(state["tokenizer"] if mean is None else mean["parameters"] | mean["buffers"])
    return tokenizer.eval()


@torch.no_grad()
def picture(tokenizer: torch.nn.Module, images: torch.Tensor, conditions: torch.Tensor | None = None) -> torch.Tensor:
    torch.manual_seed(0)
    return tokenizer.reconstruct(images, conditions=conditions)
