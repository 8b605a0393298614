"""A folder that holds something is used only to go on with its own run."""

import json

import pytest
import yaml

from imtok.common.errors import UserError
from imtok.training.run_folder import prepare

CONFIG = {"z": 1, "ckpt_path": None, "a": "ä"}


def test_the_three_files(tmp_path):
    folder = tmp_path / "runs" / "new"
    prepare(folder, config=CONFIG, overrides=["z=1", "a=ä"], resolved={"trainer.precision": "fp32"})
    text = (folder / "config.yaml").read_text()
    assert yaml.safe_load(text) == CONFIG and text.startswith("z: 1") and "ä" in text
    words = (folder / "overrides.yaml").read_text()
    assert yaml.safe_load(words) == ["z=1", "a=ä"] and "ä" in words
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["resolved"] == {"trainer.precision": "fp32"} and len(environment) > 1


def test_an_empty_folder_is_taken_and_a_full_one_only_by_its_own_run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    prepare(folder, config=CONFIG, overrides=[])
    for checkpoint in (None, str(tmp_path / "other" / "checkpoints" / "last.ckpt"), str(folder / "last.ckpt")):
        with pytest.raises(UserError, match=r"there is a run or something else in it; or choose an empty folder"):
            prepare(folder, config=CONFIG | {"ckpt_path": checkpoint}, overrides=[])
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(UserError, match="in it; ckpt_path=last goes on with it, or choose"):
        prepare(folder, config=CONFIG, overrides=[])
    own = CONFIG | {"ckpt_path": str(folder / "checkpoints" / "last.ckpt")}
    prepare(folder, config=own, overrides=["more=1"])
    assert yaml.safe_load((folder / "overrides.yaml").read_text()) == ["more=1"]


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    prepare(tmp_path / "run", config=CONFIG, overrides=[])
    assert not (tmp_path / "run").exists()
