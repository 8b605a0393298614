import hashlib
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


def test_a_split_is_that_of_the_published_rule(tmp_path):
    """A name's place is 8 bytes of BLAKE2b of "seed:name" as a share of 2^64; splits outlive versions."""
    names = [f"{i:03d}.png" for i in range(100)]
    fill(tmp_path, names)

    def place(name):
        return int(hashlib.blake2b(f"3:{name}".encode(), digest_size=8).hexdigest(), 16) / 2**64

    drawn = FolderImages(root=str(tmp_path), seed=3, val_fraction=0.3).split_sources()
    assert keys(drawn.val) == sorted(n for n in names if place(n) < 0.3)
    few = FolderImages(root=str(tmp_path), seed=3, val_fraction=0.3, max_val=7).split_sources()
    assert keys(few.val) == sorted(sorted(names, key=place)[:7]) and len(few.train) == 93
    most = FolderImages(root=str(tmp_path), val_fraction=0.9999).split_sources()
    assert len(most.val) == 99 and len(most.train) == 1


def test_what_a_split_file_says_and_what_is_none(tmp_path):
    fill(tmp_path / "images", ["ä.png", "b.png", "c.png"])
    source, file = FolderImages(root=str(tmp_path / "images"), seed=1), tmp_path / "split.json"
    source.write_split(tmp_path)
    split = json.loads(file.read_text(encoding="ascii"))
    assert (split["format"], split["num_images"], split["num_val"], split["root"]) == (1, 3, 1, str(source.root))
    assert split["how"] == source.describe()["split"]
    again = FolderImages(root=str(tmp_path / "images"), split_file=str(file))
    assert again.describe()["split"] == f"as recorded in {file}"
    for damage, said in (("{", "not a split.json"), ("{}", "not a split.json"), ("[1]", "not a split.json")):
        file.write_text(damage)
        with pytest.raises(UserError, match=f"data.split_file=.*{said}"):
            again.split_sources()
    file.unlink()
    with pytest.raises(UserError, match="no such file"):
        again.split_sources()


def test_classes_lie_below_the_folders_of_a_split(tmp_path):
    fill(tmp_path, ["train/x/1.png", "train/2.png", "val/y/deep/3.png", "val/x/4.png"])
    source = FolderImages(root=str(tmp_path), max_val=1)
    images = source.split_sources().all
    assert {images.key(i): images.label(i) for i in range(4)} == {
        "train/x/1.png": 0, "train/2.png": -1, "val/y/deep/3.png": 1, "val/x/4.png": 0,
    }  # fmt: skip
    assert source.class_names == ("x", "y") and source.describe()["split"] == "the folders train and val"
    only = FolderImages(root=str(tmp_path / "train")).split_sources().all
    assert [only.label(i) for i in range(2)] == [-1, -1]
