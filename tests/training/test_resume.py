import os

import pytest
import yaml

from imtok.common.errors import UserError
from imtok.training.resume import arguments_for_resume, experiment_of, value_of


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


@pytest.mark.parametrize(
    ("given", "value"),
    [
        (["a=1", "b=2", "a=3"], "3"),
        (["a= 'x y' "], "x y"),
        (["a='"], "'"),
        (["a=''"], ""),
        (["a='x\""], "'x\""),
        (["a='it\\'s'"], "it's"),
        (["a='C:\\'"], "C:\\"),  # not readable as Python: without its quotes
        (["+a=1"], "1"),
        (["ab=1", "b.a=2", "~a"], None),
    ],
)
def test_the_value_of_a_key(given, value):
    assert value_of("a", given) == value


def test_flags_stay_in_front_and_a_folder_is_its_newest_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a_run(tmp_path / "r", ["optimizer.lr=1"])
    found = arguments_for_resume(["-m", "--cfg", "job", "seed=2", "ckpt_path=r"])
    assert found == [
        "-m",
        "--cfg",
        "job",
        "optimizer.lr=1",
        "seed=2",
        f"ckpt_path='{tmp_path}/r/checkpoints/last.ckpt'",
    ]
    assert arguments_for_resume(["ckpt_path=null", "seed=2"]) == ["ckpt_path=null", "seed=2"]
    (tmp_path / "r" / "overrides.yaml").unlink()
    assert arguments_for_resume(["ckpt_path=r"]) == [f"ckpt_path='{tmp_path}/r/checkpoints/last.ckpt'"]


def test_the_recorded_split_is_taken_for_the_same_images_only(tmp_path):
    a_run(tmp_path / "r", ["data=folder", "data.root=x"])
    (tmp_path / "r" / "split.json").write_text("{}")
    split = f"data.split_file='{tmp_path}/r/split.json'"
    file = f"ckpt_path={tmp_path}/r/checkpoints/last.ckpt"
    assert split in arguments_for_resume([file])
    assert split in arguments_for_resume([file, "data.root=x", "data.batch_size=3"])
    for word in ("data.root=y", "data=generated", "data.split_file=z"):
        assert split not in arguments_for_resume([file, word])
    (tmp_path / "r" / "split.json").unlink()
    assert split not in arguments_for_resume([file])


def test_name_or_experiment_or_the_default_names_the_folder():
    assert experiment_of([]) == "quickstart" and experiment_of(["experiment=x"]) == "x"
    assert experiment_of(["experiment=x", "name=y"]) == "y"
