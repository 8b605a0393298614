"""Best, median and worst against a sort of everything, over batches and processes."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from imtok.eval.reconstruction import Reconstructed
from imtok.eval.report.gallery import Gallery, look_again


def image(number: int) -> torch.Tensor:
    return torch.full((3, 2, 2), number, dtype=torch.uint8)


def seen(values: list[float], *, process: int = 0, batch: int = 2, keys: list[str] | None = None) -> Gallery:
    gallery = Gallery(process=process)
    keys = keys or [f"{process}-{i:02d}" for i in range(len(values))]
    for number, start in enumerate(range(0, len(values), batch)):
        images = torch.stack([image(i) for i in range(start, min(start + batch, len(values)))])
        gallery.update(
            np.array(values[start : start + batch]), keys[start : start + batch], images, 99 - images, number
        )
    return gallery


@pytest.mark.parametrize("count", range(1, 12))
@pytest.mark.parametrize("batch", [1, 4])
def test_extremes_and_middle_of_any_number_of_images(count: int, batch: int) -> None:
    values = np.random.default_rng(count).permutation(count).astype(float).tolist()
    gallery = seen(values, batch=batch)
    order = np.argsort(values)
    assert [p.key for p in gallery.worst] == [f"0-{i:02d}" for i in order[:3]]
    assert [p.key for p in gallery.best] == [f"0-{i:02d}" for i in order[::-1][:3]]
    for picture in gallery.worst + gallery.best:
        number = int(picture.key[2:])
        assert picture.psnr == values[number]
        assert torch.equal(picture.reference, image(number)) and torch.equal(picture.reconstruction, 99 - image(number))
    first = (count - min(3, count)) // 2
    middle = order[first : first + 3]
    assert gallery.median() == [(values[i], f"0-{i:02d}", 0, int(i) // batch) for i in middle]


def test_equal_images_are_sorted_by_key() -> None:
    gallery = seen([5.0, 5.0, 5.0, 7.0], keys=["c", "a", "b", "d"], batch=4)
    assert [p.key for p in gallery.worst] == ["a", "b", "c"]
    assert [p.key for p in seen([5.0] * 3, keys=["c", "a", "b"], batch=3).best] == ["a", "b", "c"]
    late = seen([5.0, 5.0, 5.0, 5.0], keys=["b", "c", "d", "a"], batch=1)
    assert [p.key for p in late.worst] == [p.key for p in late.best] == ["b", "c", "d"], "nothing is copied for a tie"


def test_processes_together() -> None:
    parts = [seen([4.0, 1.0, 9.0, 3.0]), seen([2.0, 9.0, 0.0, 4.0], process=1)]
    whole = Gallery.joined(parts, process=1)
    assert [p.key for p in whole.worst] == ["1-02", "0-01", "1-00"]
    assert [p.key for p in whole.best] == ["0-02", "1-01", "0-00"]
    assert len(whole.seen) == 8 and whole.process == 1
    assert [entry[:3] for entry in whole.median()] == [(2.0, "1-00", 1), (3.0, "0-03", 0), (4.0, "0-00", 0)]


class Numbers(Dataset):
    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 20

    def __getitem__(self, number: int) -> dict:
        self.read.append(number)
        return {"image": image(number), "key": f"0-{number:02d}"}


def as_given(batch: dict, rows: list[int]) -> Reconstructed:
    images = batch["image"][rows]
    return Reconstructed(images, 99 - images, images, None)


def test_a_loader_is_asked_only_for_the_batches_of_the_wanted_images() -> None:
    loader = DataLoader(Numbers(), batch_size=4)
    wanted = [(3.0, "0-17", 0, 4), (1.0, "0-05", 0, 1), (2.0, "0-06", 0, 1)]
    found = look_again(loader, wanted, reconstruct=as_given)
    assert [(p.key, p.psnr) for p in found] == [("0-05", 1.0), ("0-06", 2.0), ("0-17", 3.0)]
    assert all(torch.equal(p.reference, image(int(p.key[2:]))) for p in found)
    assert all(torch.equal(p.reconstruction, 99 - p.reference) for p in found)
    assert loader.dataset.read == [4, 5, 6, 7, 16, 17, 18, 19]


def test_a_wrong_hint_or_a_loader_without_batches_is_read_through() -> None:
    loader = DataLoader(Numbers(), batch_size=4)
    [found] = look_again(loader, [(1.0, "0-09", 0, 1)], reconstruct=as_given)
    assert found.key == "0-09" and loader.dataset.read == [4, 5, 6, 7, *range(12)], "and no further than needed"
    loader = DataLoader(Numbers(), batch_size=4)
    assert look_again(loader, [], reconstruct=as_given) == [] and len(loader.dataset.read) <= 4
    batches = list(DataLoader(Numbers(), batch_size=4))
    assert [p.key for p in look_again(batches, [(1.0, "0-19", 0, 4)], reconstruct=as_given)] == ["0-19"]
