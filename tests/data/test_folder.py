import json

import numpy as np
import pytest
from PIL import Image

from imtok.common.errors import UserError
from imtok.data.folder import FolderImages


def fill(root, names):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number % 256, np.uint8)).save(root / name)


def keys(images):
    return [images.key(i) for i in range(len(images))]


def test_split_is_a_partition_and_stable_when_files_arrive(tmp_path):
    names = [f"{i:03d}.png" for i in range(200)]
    fill(tmp_path, names)
    before = FolderImages(root=str(tmp_path), seed=3).split_sources()
    train, val = set(keys(before.train)), set(keys(before.val))
    assert train | val == set(names) == set(keys(before.all)) and not train & val
    assert 8 <= len(val) <= 35  # a tenth of 200, by chance
    fill(tmp_path, [f"new{i}.png" for i in range(50)])
    after = FolderImages(root=str(tmp_path), seed=3).split_sources()
    assert val <= set(keys(after.val)) and train <= set(keys(after.train))
    other = FolderImages(root=str(tmp_path), seed=4).split_sources()
    assert set(keys(other.val)) != set(keys(after.val))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_small_folders_have_something_to_validate(tmp_path, count):
    fill(tmp_path, [f"{i}.png" for i in range(count)])
    splits = FolderImages(root=str(tmp_path), val_fraction=0.01).split_sources()
    assert len(splits.val) == 1 and len(splits.train) == max(count - 1, 1)
    assert len(FolderImages(root=str(tmp_path), val_fraction=0.99, max_val=2).split_sources().train) >= 1


def test_labels(tmp_path):
    fill(tmp_path, ["cat/a.png", "cat/deep/b.png", "dog/c.png", "loose.png"])
    source = FolderImages(root=str(tmp_path))
    images = source.split_sources().all
    assert {images.key(i): images.label(i) for i in range(4)} == {
        "cat/a.png": 0, "cat/deep/b.png": 0, "dog/c.png": 1, "loose.png": -1,
    }  # fmt: skip
    assert source.class_names == ("cat", "dog")
    images = FolderImages(root=str(tmp_path / "cat")).split_sources().all
    assert [images.label(i) for i in range(2)] == [-1, -1]  # one sub-folder is no classification


def test_train_and_val_folders_stay_apart(tmp_path):
    fill(tmp_path, ["train/x/1.png", "train/y/2.png", "valid/x/3.png", "valid/y/4.png", "other/5.png"])
    splits = FolderImages(root=str(tmp_path)).split_sources()
    assert keys(splits.train) == ["train/x/1.png", "train/y/2.png"] and keys(splits.val) == [
        "valid/x/3.png",
        "valid/y/4.png",
    ]
    assert [splits.val.label(i) for i in (0, 1)] == [splits.train.label(i) for i in (0, 1)] == [0, 1]


def test_recorded_split_comes_back(tmp_path):
    folder, run = tmp_path / "images with = and ümlaut", tmp_path / "run"
    run.mkdir()
    fill(folder, [f"ä{i}.png" for i in range(40)])
    source = FolderImages(root=str(folder), seed=1)
    source.write_split(run)
    record = json.loads((run / "split.json").read_text())
    val = keys(source.split_sources().val)
    assert record["val"] == val and record["seed"] == 1 and record["num_images"] == 40
    again = FolderImages(root=str(folder), seed=99, val_fraction=0.5, split_file=str(run / "split.json"))
    assert keys(again.split_sources().val) == val
    (folder / val[0]).unlink()
    again = FolderImages(root=str(folder), split_file=str(run / "split.json"))
    with pytest.raises(UserError, match=r"data.split_file=.*1 of its"):
        again.split_sources()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.mkdir(), "folder is empty"),
        (lambda root: (root.mkdir(), (root / "a.txt").write_text("x")), "no images in it"),
        (lambda root: root.write_text("x"), "is a file"),
    ],
)
def test_unusable_folders_in_one_line(tmp_path, make, said):
    root = tmp_path / "root"
    make(root)
    with pytest.raises(UserError, match=said) as caught:
        FolderImages(root=str(root)).split_sources()
    assert f"data.root={root}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [{"root": None}, {"val_fraction": 0}, {"val_fraction": 1.0}, {"max_val": 0}])
def test_unusable_settings(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}="):
        FolderImages(**({"root": "x"} | wrong))


def test_it_says_how_it_was_split_whoever_asks_first(tmp_path):
    fill(tmp_path, ["a.png", "b.png"])
    assert FolderImages(root=str(tmp_path), seed=3).describe() == {
        "name": "folder",
        "root": str(tmp_path),
        "split": "by the hash of (seed 3, name), 0.1 for validation",
    }
