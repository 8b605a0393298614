"""Recipes state clip, EMA and precision themselves, and what they say about their settings names settings they have."""

from functools import cache

import pytest

from imtok.configs.compose import compose_config
from imtok.scripts.recipes import experiment_files, name_of
from imtok.scripts.shared.recipe_settings import misnamed

NAMES = [name for name in map(name_of, experiment_files()) if not name.startswith("quickstart")]
ONE_A_FAMILY = {"titok_s128/stage2", "xqgan_msbr10p2_4096", "maskgit_vqgan"}
TRAINER = "max_updates: 7\nclip: 777.0\nprecision: auto\nema: {decay: 0.777, every: 1, warmup: maybe}\n"


@pytest.fixture(scope="module", name="composed")
def _composed(tmp_path_factory: pytest.TempPathFactory):
    """With defaults of `trainer` that no recipe would have."""
    folder = tmp_path_factory.mktemp("yaml")
    (folder / "trainer").mkdir()
    text = "defaults: [default, _self_]\n" + TRAINER
    (folder / "trainer" / "unlikely.yaml").write_text(text)
    words = [f"hydra.searchpath=['file://{folder}']", "trainer=unlikely"]
    return cache(lambda name: compose_config("train", [f"experiment={name}", *words]))


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in ONE_A_FAMILY else pytest.mark.slow) for n in NAMES])
def test_nothing_comes_from_the_defaults_of_trainer(name: str, composed) -> None:
    config = composed(name)
    trainer = config["trainer"]
    assert trainer["clip"] != 777 and trainer["precision"] != "auto" and trainer["max_updates"] != 7
    assert trainer["ema"] is None or (trainer["ema"]["decay"] != 0.777 and trainer["ema"]["warmup"] != "maybe")
    assert misnamed(config) == []
    assert config["recipe"]["family"] and config["recipe"]["reference"]["repository"]
    assert config["recipe"]["complete"] in (True, False)
    assert not (config["recipe"]["complete"] and config["recipe"].get("unpublished")), "complete, and yet unpublished?"
