"""Lists of images: joined, chosen, in memory; published sets read from files of their layout."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import cifar

from imtok.data.skipped import SkippedImages
from imtok.data.source import Chosen, Images, Joined
from imtok.data.torchvision_sets import Cifar10, Imagenette, ImagesInMemory


class Numbers(Images):
    """Image i is i everywhere; even ones have a caption."""

    def __init__(self, first: int, count: int):
        self.first, self.count, self.prepared = first, count, 0

    def __len__(self) -> int:
        return self.count

    def prepare(self) -> None:
        self.prepared += 1

    def read(self, index: int, *, at_least: int | None = None) -> torch.Tensor:
        return torch.full((3, 2, 2), self.first + index + (at_least or 0))

    def key(self, index: int) -> str:
        return str(self.first + index)

    def label(self, index: int) -> int:
        return -self.first - index

    def caption(self, index: int) -> str | None:
        return None if index % 2 else f"number {self.first + index}"

    def captioned(self) -> list[int]:
        return list(range(0, self.count, 2))


def shown(images: Images) -> list[tuple[int, str, int, str | None]]:
    return [
        (int(images.read(i, at_least=100)[0, 0, 0]) - 100, images.key(i), images.label(i), images.caption(i))
        for i in range(len(images))
    ]


def test_joined_and_chosen_lists_keep_what_belongs_together():
    parts = [Numbers(10, 3), Numbers(20, 2)]
    joined = Joined(*parts)
    assert shown(joined) == [
        (10, "10", -10, "number 10"), (11, "11", -11, None), (12, "12", -12, "number 12"),
        (20, "20", -20, "number 20"), (21, "21", -21, None),
    ]  # fmt: skip
    assert list(joined.captioned()) == [0, 2, 3]
    with pytest.raises(IndexError):
        joined.read(5)
    chosen = Chosen(joined, [4, 3, 0])
    assert shown(chosen) == [shown(joined)[i] for i in (4, 3, 0)] and list(chosen.captioned()) == [1, 2]
    chosen.prepare()
    assert [part.prepared for part in parts] == [1, 1]


def test_lists_are_cached_where_all_their_parts_are():
    memory = ImagesInMemory(name="x", pixels=torch.zeros(2, 3, 4, 4, dtype=torch.uint8), labels=torch.tensor([4, 5]))
    assert Joined(memory, memory).cached and Chosen(memory, [0]).cached
    assert not Joined(memory, Numbers(0, 1)).cached and not Chosen(Numbers(0, 1), [0]).cached
    assert (memory.key(1), memory.label(1), memory.caption(1), list(memory.captioned())) == ("x/00001", 5, None, [])
    with pytest.raises(AssertionError):
        ImagesInMemory(name="x", pixels=torch.zeros(2, 3, 4, 4, dtype=torch.uint8), labels=torch.tensor([4]))


def test_cifar_files_become_images_and_labels(tmp_path, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng, everything = np.random.default_rng(0), {}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        everything[name] = rng.integers(0, 256, (2, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": everything[name], "labels": [3, 1]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    monkeypatch.setattr(cifar, "check_integrity", lambda *_: True)  # these are not the published bytes
    source = Cifar10(root=str(tmp_path))
    splits = source.split_sources()
    assert (len(splits.train), len(splits.val), len(splits.all)) == (10, 2, 12) and source.class_names == tuple(
        "abcdefghij"
    )
    assert (splits.train.key(3), splits.train.label(2), splits.val.label(1)) == ("train/00003", 3, 1)
    assert np.array_equal(splits.train.read(3).numpy(), everything["data_batch_2"][1].reshape(3, 32, 32))
    assert np.array_equal(splits.all.read(11).numpy(), everything["test_batch"][1].reshape(3, 32, 32))
    assert source.describe() == {"name": "cifar10", "root": str(tmp_path), "split": "CIFAR-10 train / test"}


@pytest.mark.parametrize(("size", "folder"), [("full", "imagenette2"), ("320px", "imagenette2-320")])
def test_imagenette_folders_become_images_and_labels(tmp_path, size, folder):
    for split in ("train", "val"):
        for wnid in ("n01440764", "n03888257"):
            (tmp_path / folder / split / wnid).mkdir(parents=True)
            Image.new("RGB", (9, 7)).save(tmp_path / folder / split / wnid / "x.JPEG")
    for download in (False, True):  # what is there is not fetched again
        source = Imagenette(root=str(tmp_path), size=size, download=download)
        splits = source.split_sources()
    assert source.class_names[0] == "tench" and len(splits.all) == 4 and splits.val.read(1).shape == (3, 7, 9)
    assert splits.train.key(1) == f"{folder}/train/n03888257/x.JPEG" and splits.train.label(1) != splits.train.label(0)
    assert source.describe()["split"] == f"Imagenette train / val ({size})"


def test_skipped_images_are_named_once(tmp_path, capsys):
    skipped = SkippedImages(folder=tmp_path)
    skipped.report()
    assert skipped.summary() is None and capsys.readouterr().err == ""
    skipped.collect({"skipped": ["a: broken", "a: broken"]})
    assert skipped.summary() == f"1 image could not be read and had to be skipped; they are named in {skipped.path}"
    skipped.collect(["b: empty", "a: broken"])
    assert skipped.path.read_text() == "a: broken\nb: empty\n"
    resumed = SkippedImages(folder=tmp_path)
    resumed.collect(["b: empty"])
    assert len(resumed) == 2 and skipped.path.read_text() == "a: broken\nb: empty\n"
    resumed.report()
    assert capsys.readouterr().err.startswith("imtok: 2 images could not be read")
    nowhere = SkippedImages()
    nowhere.collect(["c: gone"])
    assert nowhere.summary().endswith("; first: c: gone")
    assert len(SkippedImages(folder=tmp_path, fresh=True)) == 0 and not skipped.path.exists()


def test_images_in_memory():
    pixels = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 2, 2)
    images = ImagesInMemory(name="x", pixels=pixels, labels=torch.tensor([4, 5]))
    assert torch.equal(images.read(1), pixels[1]) and images.key(1) == "x/00001" and images.label(1) == 5
    assert images.cached and len(images) == 2 and images.caption(0) is None and list(images.captioned()) == []
    for wrong in ({"pixels": pixels.float()}, {"labels": torch.tensor([4])}):
        with pytest.raises(AssertionError):
            ImagesInMemory(**({"name": "x", "pixels": pixels, "labels": torch.tensor([4, 5])} | wrong))


def test_a_joined_list_where_all_have_captions_names_all():
    class Captioned(Numbers):
        def captioned(self) -> range:
            return range(self.count)

    assert Joined(Captioned(0, 2), Captioned(0, 3)).captioned() == range(5)
    assert list(Joined(Captioned(0, 2), Numbers(0, 3)).captioned()) == [0, 1, 2, 4]
