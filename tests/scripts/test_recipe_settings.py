"""Settings of a recipe in words, their status, and the page that lists them for all."""

import json
from pathlib import Path
from typing import Any

import pytest

from imtok.common.errors import UserError
from imtok.configs.compose import compose_config
from imtok.parity.proven import proven
from imtok.scripts import recipes
from imtok.scripts.shared.recipe_page import section
from imtok.scripts.shared.recipe_settings import Setting, misnamed, settings_of, words

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
GAN = "imtok.losses.adversarial"


def small(**recipe: Any) -> dict[str, Any]:
    return {
        "recipe": recipe,
        "data": {"image_size": 8, "batch_size": 2, "train_crop": "random", "flip": False},
        "optimizer": {"name": "adam", "lr": 1e-4, "betas": [0.5, 0.9], "weight_decay": 0.0, "decay": "matrices",
                      "schedule": {"shape": "step", "warmup": 0, "min_ratio": 0.0, "drops": [5], "every": 1}},
        "trainer": {"max_updates": 9, "clip": None, "ema": {"decay": 0.9, "warmup": True}, "precision": "fp32"},
        "loss": {"l2": {"weight": {"start": 1.0, "end": 0.0, "updates": 0, "after": 3},
                        "term": {"_target_": "imtok.losses.pixel.L2"}}, "commit": None},
        "adversary": {"_target_": f"{GAN}.adversary.Adversary", "weight": 0.5, "optimizer": None,
                      "discriminator": {"_target_": f"{GAN}.patchgan.PatchGAN", "ndf": 8, "tiny": {"ndf": 4}}},
        "tokenizer": {"quantizer": {"_target_": "imtok.tokenizers.quantizers.vq.VQ", "codebook_size": 4, "dim": 2}},
        "freeze": [],
    }  # fmt: skip


def test_values_are_those_of_the_composed_config_and_of_its_classes() -> None:
    found = {setting.key: setting.value for setting in settings_of(small())}
    expected = {
        "data.train_crop": "RandomCrop(mode bicubic, antialias yes)",
        "data.flip": "no",
        "optimizer.lr": "0.0001",
        "optimizer.eps": "1e-08",
        "optimizer.schedule.drops": "[5]",
        "trainer.clip": "none",
        "trainer.ema": "decay 0.9, warmup yes",
        "loss.l2": "1 to 0 at once from update 3 on x L2",
        "adversary.discriminator": "PatchGAN(ndf 8, n_layers 3, norm batch)",
        "adversary.adaptive": "none",
        "adversary.discriminator_weight": "1",  # of the signature
        "adversary.optimizer": "like the generator's",
        "tokenizer.quantizer": "VQ",
        "tokenizer.quantizer.codebook_size": "4",
    }
    assert {key: found.get(key) for key in expected} == expected
    without = {"loss.commit", "optimizer.decay", "optimizer.schedule.min_ratio", "optimizer.schedule.every", "freeze"}
    assert not without & set(found) and "tokenizer.quantizer.dim" not in found
    assert words({"start": 0.0, "end": 1.0, "updates": 5}) == "0 to 1 within 5 updates from update 0 on"


def test_status_and_source_come_from_the_nearest_annotation() -> None:
    config = small(
        reference={
            "repository": "a/b",
            "default": "run.py",
            "optimizer": "opt.py",
            "optimizer.lr": "lr.py",
            "data": None,
        },
        deviations={"adversary.discriminator.norm": "group there", "trainer.clip": None, "trainer": "all of it"},
        unpublished=["data", "optimizer.lr"],
    )
    found = {setting.key: setting for setting in settings_of(config)}
    assert found["optimizer.lr"].source == "lr.py" and found["optimizer.betas"].source == "opt.py"
    assert found["data.flip"].source == "run.py" and found["data.flip"].status == "unpublished"
    assert found["optimizer.lr"].status == "unpublished" and found["optimizer.betas"].status == "equal"
    assert found["adversary.discriminator"].verdict == "deviates: group there"
    (vague,) = [s for s in settings_of(small(deviations={"tokenizer.quantizer.codebook_size": "x"})) if s.reason]
    assert vague.key == "tokenizer.quantizer.codebook_size", "of its own row, not of the class's"
    assert found["adversary.reconstruction_terms"].value == "[l2]", "of those that it has"
    assert found["trainer.clip"].verdict == found["trainer.ema"].verdict == "deviates: all of it"
    assert misnamed(config) == []


def test_annotations_of_settings_that_are_not_there_are_found() -> None:
    there = {"adversary.ramp": "x", "adversary.discriminator.norm": "x"}  # of the class alone
    wrong = {"optimizer.rate": "x", "loss.l2.term.net": "x", "loss.l1": "x", "data.flip.more": "x"}
    assert misnamed(small(deviations=there | wrong)) == sorted(wrong)
    assert misnamed(small(deviations={"data.flip": "there", " here not": None})) == [" here not"]
    assert misnamed(small(reference={"repository": "a", "default": "b", "tokenizer.space": "c"})) == ["tokenizer.space"]


def test_a_section_says_what_differs_and_names_it_once() -> None:
    one = small(family="F", reference={"repository": "a/b", "default": "x|y.py"}, complete=True)
    two = small(family="F", reference={"repository": "a/b", "default": "x|y.py"}, complete=False, missing="length")
    two["optimizer"]["lr"], two["loss"]["commit"] = 2e-4, {"weight": 2, "term": {"_target_": "imtok.losses.pixel.L1"}}
    lines = list(section("F", {"one": one, "two": two}, {"one": ["forward"]}))
    assert "- `one`: complete. Proven: forward." in lines and "- `two`: not complete: length. Proven: nothing." in lines
    assert r"| `optimizer.lr` | 0.0001 (`one`); 0.0002 (`two`) | x\|y.py | equal |" in lines
    assert r"| `optimizer.betas` | [0.5, 0.9] | x\|y.py | equal |" in lines
    assert r"| `loss.commit` | 2 x L1 (`two`) | x\|y.py | equal |" in lines
    assert lines.index(r"| `loss.commit` | 2 x L1 (`two`) | x\|y.py | equal |") < len(lines) - 5, "in its place"


def test_the_command_prints_one_and_refuses_what_is_none(capsys) -> None:
    assert recipes.main(["llamagen_vq16"]) == 0
    said = capsys.readouterr().out
    assert "trainer.clip" in said and "deviates: without the dropout" in said
    assert recipes.main(["--json", "llamagen_vq16"]) == 0
    found = [Setting(**row) for row in json.loads(capsys.readouterr().out)["llamagen_vq16"]]
    assert {s.status for s in found} == {"equal", "deviates"} and found[0].source.endswith("vq_train.py")
    with pytest.raises(UserError, match=r"^llamagen_vq17: no such experiment; did you mean 'llamagen_vq16'\?"):
        recipes.main(["llamagen_vq17"])


def test_the_page_is_current() -> None:
    """`imtok recipes --write docs/recipes.md` after a change of YAML; the slow test holds all of it."""
    names = ["vqgan_f16_1024", "vqgan_f16_16384"]
    configs = {name: compose_config("train", [f"experiment={name}"]) for name in names}
    written = "\n".join(section("VQGAN", configs, {name: proven(name) for name in names}))
    assert written in PAGE.read_text(), "imtok recipes --write docs/recipes.md"


@pytest.mark.slow
def test_the_whole_page_is_current(tmp_path) -> None:
    assert recipes.main(["--write", str(tmp_path / "recipes.md")]) == 0
    assert (tmp_path / "recipes.md").read_text() == PAGE.read_text(), "imtok recipes --write docs/recipes.md"
