"""Parts replaced on the command line take the experiment's settings of the part before them along."""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from imtok.common.build import locate
from imtok.common.errors import UserError
from imtok.configs.compose import compose_config
from imtok.configs.swaps import class_nodes

EXPERIMENT = Path(sys.modules["imtok.configs.compose"].__file__).parent / "experiment"
ALL = [f.relative_to(EXPERIMENT).with_suffix("").as_posix() for f in sorted(EXPERIMENT.rglob("*.yaml"))]
ALL = [name for name in ALL if not name.startswith("shared/")]
SWAPS = (
    "adversary=none",
    "adversary=dino",
    "loss=[l1,codebook,commit]",
    "logger=[tensorboard]",
    "optimizer=sgd",
    "tokenizer/encoder=cnn",
    "tokenizer/quantizer=fsq",
    "tokenizer/decoder=cnn",
)
# A part of the experiment that stays needs a number of the part that went, or the experiment chose parts of that part.
NAMED = r"Interpolation key|chooses parts inside this part"


def compose(experiment: str, *words: str) -> dict[str, Any]:
    return compose_config("train", [f"experiment={experiment}", *words])


def strays(config: dict[str, Any]) -> list[str]:
    """Keys that the class beside them does not take."""
    found = []
    for key, node in class_nodes(config, ""):
        cls: Any = locate(node["_target_"], key=key)
        takes = {*inspect.signature(cls.__init__).parameters, "_target_", "tiny"}
        takes |= set(node.get(getattr(cls, "aliases_of", ""), {}))
        found += [f"{key}.{name}" for name in node if name not in takes]
    return found


@pytest.mark.parametrize("words", [SWAPS[:1], SWAPS[1:5], SWAPS[5:]])
@pytest.mark.parametrize("experiment", ["llamagen_vq16", "quickstart", "titok_s128/stage2", "xqgan_vp2_4096"])
def test_no_setting_of_a_replaced_part_stays(experiment: str, words: tuple[str, ...]) -> None:
    config = compose(experiment, *words, "debug=tiny")
    assert strays(config) == [] and all("term" in term for term in config["loss"].values() if term)
    if words == ("adversary=none",):
        assert config["adversary"] is None


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ALL)
def test_every_group_of_every_experiment(experiment: str) -> None:
    refused = []
    for word in SWAPS:
        try:
            config = compose(experiment, word, "debug=tiny")
        except UserError as error:
            refused.append(str(error))
            continue
        assert strays(config) == [], word
    assert all(re.search(NAMED, line) for line in refused)


def test_the_note_names_what_was_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    compose("llamagen_vq16", "adversary=none", "loss=[l2,commit]")
    said, noted = capsys.readouterr()
    assert said == "" and noted.count("\n") == 1
    assert set(noted.strip().partition("replaced: ")[2].split(", ")) == {
        "adversary.weight",
        "adversary.discriminator_weight",
        "adversary.adaptive",
        "adversary.start",
        "adversary.reconstruction_terms",
        "loss.codebook",
    }
    compose("llamagen_vq16", "data.batch_size=2", "adversary=patchgan", "+loss=l1")
    assert capsys.readouterr() == ("", "")


def test_what_is_typed_stays() -> None:
    words = ["tokenizer/quantizer=lfq", "tokenizer.quantizer.bits=10", "loss=[l2]", "loss.l2.weight=3"]
    config = compose("llamagen_vq16", *words)
    assert config["tokenizer"]["quantizer"]["bits"] == 10 and "codebook_size" not in config["tokenizer"]["quantizer"]
    assert config["loss"]["l2"]["weight"] == 3 and list(config["loss"]) == ["l2"]
    kept = compose("llamagen_vq16", "adversary=dinov2")["adversary"]  # the adversary stays, its discriminator went
    assert kept["weight"] == 0.5 and kept["start"] == 19999 and kept["reconstruction_terms"] == ["l2", "lpips"]


def test_other_images_are_prepared_as_the_experiment_says() -> None:
    data = compose("llamagen_vq16", "data=folder", "data.root=x", "data.val_fraction=0.5")["data"]
    assert data["batch_size"] == 128 and data["train_crop"]["min_fraction"] == 0.8 and data["source"]["root"] == "x"
    assert data["source"]["val_fraction"] == 0.5
    assert (
        "text_share" in compose("quickstart_clip")["data"] and strays(compose("quickstart_clip", "data=folder")) == []
    )


def test_lists_may_be_empty() -> None:
    config = compose("llamagen_vq16", "logger=[]", "callbacks=[]", "loss=[l2]")
    assert config["logger"] == {} == config["callbacks"]


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A quantizer that takes a part of VQ's settings, in a package in the folder that imtok is started in."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(
        "from imtok.tokenizers.quantizers.vq import VQ\n"
        "class Own(VQ):\n"
        "    def __init__(self, *, dim: int, codebook_size: int = 8, warm: float = 1.0):\n"
        "        super().__init__(dim=dim, codebook_size=codebook_size)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def test_a_class_of_ones_own_keeps_the_settings_that_it_takes(own_package: str, capsys: pytest.CaptureFixture) -> None:
    words = [f"tokenizer.quantizer._target_={own_package}.Own", "+tokenizer.quantizer.warm=2", "debug=tiny"]
    assert compose("llamagen_vq16", *words)["tokenizer"]["quantizer"] == {
        "_target_": f"{own_package}.Own",
        "codebook_size": 64,
        "dim": None,
        "warm": 2,
        "tiny": {"codebook_size": 64},
    }
    assert "tokenizer.quantizer.unit_length" in capsys.readouterr().err


def test_a_yaml_of_ones_own_may_name_the_class(own_package: str, tmp_path: Path) -> None:
    (tmp_path / "yaml" / "experiment").mkdir(parents=True)
    file = tmp_path / "yaml" / "experiment" / "mine.yaml"
    text = f"""# @package _global_
defaults: [llamagen_vq16, _self_]
tokenizer: {{quantizer: {{_target_: {own_package}.Own}}}}
"""
    search = f"hydra.searchpath=['file://{tmp_path / 'yaml'}']"
    file.write_text(text)
    node = compose("mine", search)["tokenizer"]["quantizer"]
    assert node["codebook_size"] == 16384 and "unit_length" not in node
    assert compose("mine", search, "adversary=none")["adversary"] is None
    file.write_text(text.replace(".Own", ".Own, wram: 2.0"))
    assert compose("mine", search)["tokenizer"]["quantizer"]["wram"] == 2.0  # for `build` to refuse
