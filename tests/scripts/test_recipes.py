"""Every experiment is listed, its sizes computed and remembered."""

import json

import pytest

from imtok.common.errors import UserError
from imtok.scripts import recipes


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IMTOK_CACHE", str(tmp_path / "cache"))


SIZES = {"tokens": 1, "codebook": [4, 4], "bits": 4.0, "parameters": 1, "image_size": [8, 16]}


def test_every_experiment_says_what_it_publishes(capsys, monkeypatch):
    monkeypatch.setattr(recipes, "measure", lambda name: SIZES)
    assert recipes.main(["--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {
        path.relative_to(recipes.experiments_folder()).with_suffix("").as_posix() for path in recipes.experiment_files()
    }
    assert {"quickstart", "titok_s128/stage1"} <= set(rows) and not any(name.startswith("shared") for name in rows)
    for name, row in rows.items():
        assert row["paper"], f"{name} has no recipe.paper"
        assert isinstance(row["complete"], bool), f"{name} does not say whether it is complete"
    assert rows["vqgan_f16_1024"]["published_rfid"] == 7.94


def test_sizes_are_the_published_ones():
    names = ("llamagen_vq16", "llamagen_vq8", "tokenbridge", "wetok_imagenet_f8", "xqgan_msbr10p2_4096")
    rows = {name: recipes.measure(name) for name in names}
    # Methods sheet, section 2: 71.88 M and 70.11 M.
    assert round(rows["llamagen_vq16"]["parameters"] / 1e6, 2) == 71.88
    assert round(rows["llamagen_vq8"]["parameters"] / 1e6, 2) == 70.11
    assert rows["llamagen_vq8"]["tokens"] == 1024 and rows["llamagen_vq16"]["bits"] == 256 * 14
    # A continuous tokenizer has no codebook and no bits; groups of bits are as many codebooks.
    assert rows["tokenbridge"]["codebook"] == [] and rows["tokenbridge"]["bits"] == 0
    assert rows["wetok_imagenet_f8"]["codebook"] == [256] * 4
    assert rows["xqgan_msbr10p2_4096"]["tokens"] == sum(n * n for n in (1, 1, 2, 3, 3, 4, 5, 6, 8, 11))


@pytest.mark.slow
def test_every_experiment_can_be_built_at_its_own_size():
    assert not [row for row in recipes.recipes() if "reason" in row]


def test_the_second_time_nothing_is_built(monkeypatch, capsys):
    monkeypatch.setattr(recipes, "measure", lambda name: SIZES)
    recipes.main([])
    monkeypatch.setattr(recipes, "measure", lambda name: pytest.fail("built again"))
    capsys.readouterr()
    recipes.main([])
    said = capsys.readouterr().out
    assert "2 x 4" in said and "8x16" in said and "quickstart" in said


def test_a_broken_experiment_is_named_and_the_rest_shown(monkeypatch, capsys):
    good = {"tokens": 1, "codebook": 4, "bits": 2.0, "parameters": 1, "image_size": [8, 8]}
    monkeypatch.setattr(recipes, "measure", lambda name: {"reason": "[no such] key"} if name == "quickstart" else good)
    assert recipes.main([]) == 0
    said = capsys.readouterr().out
    assert "quickstart: sizes unknown: [no such] key" in said and "llamagen_vq16" in said


def test_a_cache_that_cannot_be_written_only_costs_time(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("IMTOK_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(recipes, "measure", lambda name: {"reason": "x"})
    assert recipes.recipes()


def test_an_annotation_of_no_setting_is_named(monkeypatch):
    config = {"data": {"flip": False}, "recipe": {"unpublished": ["data.flip", "data.filp"]}}
    monkeypatch.setattr("imtok.configs.compose.compose_config", lambda *_: config)
    with pytest.raises(UserError, match=r"^unitok: recipe speaks of data\.filp, and this experiment has no such key$"):
        recipes.main(["unitok"])
