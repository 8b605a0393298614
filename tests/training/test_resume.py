import os

import pytest
import yaml

from imtok.common.errors import UserError
from imtok.training.resume import arguments_for_resume, value_of


def a_run(folder, overrides, *, age: int = 0) -> None:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").write_bytes(b"x")
    (folder / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    os.utime(folder / "checkpoints" / "last.ckpt", (10_000 - age, 10_000 - age))


def test_last_is_the_newest_of_the_same_experiment(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a_run(tmp_path / "runs/quickstart/old", [], age=9)
    a_run(tmp_path / "runs/quickstart/new", ["optimizer.lr=1", "data=folder", "ckpt_path=x", "seed=3"])
    a_run(tmp_path / "runs/other/newer", [], age=-9)
    found = arguments_for_resume(["ckpt_path=last", "seed=5"])
    new = tmp_path / "runs/quickstart/new"
    assert found == [
        "optimizer.lr=1",
        "data=folder",
        "seed=5",
        f"ckpt_path='{new}/checkpoints/last.ckpt'",
        f"hydra.run.dir='{new}'",
    ]
    assert "quickstart/new" in capsys.readouterr().out
    assert f"hydra.run.dir='{tmp_path / 'runs/other/newer'}'" in arguments_for_resume(
        ["experiment=other", "ckpt_path=last"]
    )


def test_a_named_folder_and_a_file_with_strange_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "it's a run"
    a_run(folder, ["seed=1"])
    found = arguments_for_resume([f'hydra.run.dir="{folder}"', "ckpt_path=last"])
    assert value_of("hydra.run.dir", found) == str(folder)
    assert value_of("ckpt_path", found) == str(folder / "checkpoints/last.ckpt")
    elsewhere = arguments_for_resume([f"ckpt_path={folder}/checkpoints/last.ckpt", "hydra.run.dir=fresh"])
    assert value_of("hydra.run.dir", elsewhere) == "fresh" and "seed=1" in elsewhere


@pytest.mark.parametrize(
    "arguments", [["ckpt_path=last"], ["ckpt_path=nowhere.ckpt"], ["ckpt_path=last", "hydra.run.dir=x"]]
)
def test_nothing_to_go_on_with_is_one_line(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"ckpt_path=.*(no such file|has a checkpoint|has no)"):
        arguments_for_resume(arguments)


def test_without_ckpt_path_nothing_changes():
    assert arguments_for_resume(["experiment=x", "-m"]) == ["experiment=x", "-m"]
