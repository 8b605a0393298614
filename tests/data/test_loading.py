"""Samples and batches: which image stands in for a broken one, and where its line is reported."""

import pytest
import torch

from imtok.common.errors import UserError
from imtok.data.image_file import UnreadableImage
from imtok.data.loading import EvalImages, ImageLoader, TrainImages, collate
from imtok.data.sampling import mixed
from imtok.data.source import Images
from imtok.data.transforms import CentreCrop, RandomCrop


class Broken(Images):
    """Image i is i everywhere; those named cannot be read. It notes what was asked for."""

    def __init__(self, count: int, broken: set[int]):
        self.count, self.broken, self.asked = count, broken, []

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, *, at_least: int | None = None) -> torch.Tensor:
        self.asked.append((index, at_least))
        if index in self.broken:
            raise UnreadableImage(f"{index:03d}", "broken")
        return torch.full((3, 4, 4), index, dtype=torch.uint8)

    def key(self, index: int) -> str:
        return f"{index:03d}"


def train(images: Images, **settings: object) -> TrainImages:
    return TrainImages(**({"images": images, "crop": RandomCrop(size=4), "flip": False, "seed": 7} | settings))


def test_stand_ins_are_drawn_sixteen_times_and_then_looked_for_in_turn() -> None:
    """Published runs resume with the same ones, so the rule is part of what a seed means."""
    count = 40
    drawn = [mixed(7, 2, 123, attempt) % count for attempt in range(1, 17)]
    order = [5, *drawn, *((drawn[-1] + step) % count for step in range(1, count))]
    seen = list(dict.fromkeys(order))  # a broken file is read once
    for tries in (0, 1, 5, len(set(order[:17])) - 1, len(set(order[:17])), len(seen) - 1):
        images = Broken(count, set(seen[:tries]))
        sample = train(images)[123, 5]
        assert images.asked == [(index, 4) for index in seen[: tries + 1]]
        assert sample["key"] == f"{seen[tries]:03d}" and int(sample["image"].max()) == seen[tries]
        assert list(dict.fromkeys(sample["skipped"])) == [f"{i:03d}: broken" for i in seen[:tries]]
    nothing = train(Broken(count, set(range(count))))[123, 5]
    assert nothing["image"] is None and len(set(nothing["skipped"])) == count


def test_crop_and_flip_follow_from_seed_and_sample_number() -> None:
    class Ramp(Broken):
        def read(self, index: int, *, at_least: int | None = None) -> torch.Tensor:
            return torch.arange(256, dtype=torch.uint8).view(1, 16, 16).repeat(3, 1, 1)

    images = Ramp(3, set())
    plain = [train(images)[sample, sample % 3]["image"] for sample in range(40)]
    flipped = [train(images, flip=True)[sample, sample % 3]["image"] for sample in range(40)]
    turned = [torch.equal(f, p.flip(-1)) for f, p in zip(flipped, plain, strict=True)]
    assert all(torch.equal(f, p) or t for f, p, t in zip(flipped, plain, turned, strict=True))
    assert 8 < sum(turned) < 32
    generator = torch.Generator().manual_seed(mixed(7, 3, 21))
    assert torch.equal(plain[21], RandomCrop(size=4)(images.read(0), generator))


def test_evaluation_reads_every_pixel_and_marks_what_is_broken() -> None:
    images = Broken(3, {1})
    found = [EvalImages(images=images, crop=CentreCrop(size=4))[i] for i in range(3)]
    assert [s["image"] is None for s in found] == [False, True, False] and found[1]["skipped"] == ["001: broken"]
    assert images.asked == [(0, None), (1, None), (2, None)]
    batch = collate(found)
    assert batch["key"] == ["000", "002"] and batch["label"].tolist() == [-1, -1]
    assert batch["image"][:, 0, 0, 0].tolist() == [0, 2] and "caption" not in batch
    nothing = collate([found[1], found[1]])
    assert nothing["image"] is None and len(nothing["label"]) == 0 and nothing["skipped"] == ["001: broken"]


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ({0, 1, 2}, [("3", "012")]),
        ({1, 2}, [("0", "12"), ("3", "")]),
        ({0, 3}, [("1", "0"), ("2", "3")]),
        (set(), [("0", ""), ("1", ""), ("2", ""), ("3", "")]),
    ],
)
def test_lines_of_an_unreadable_batch_go_to_the_one_before_or_after(broken: set[int], expected: list) -> None:
    dataset = EvalImages(images=Broken(4, broken), crop=CentreCrop(size=4))
    loader = ImageLoader(dataset, described_as="here", complete=False, batch_size=1, collate_fn=collate)
    found = [("".join(str(int(k)) for k in b["key"]), [line[:3] for line in b["skipped"]]) for b in loader]
    assert found == [(keys, [f"00{n}" for n in lines]) for keys, lines in expected]


@pytest.mark.parametrize("complete", [True, False])
def test_where_nothing_can_be_read_the_first_file_is_named(complete: bool) -> None:
    dataset = EvalImages(images=Broken(2, {0, 1}), crop=CentreCrop(size=4))
    loader = ImageLoader(dataset, described_as="here", complete=complete, batch_size=1, collate_fn=collate)
    with pytest.raises(UserError, match=r"data\.root=here: none of .* first: 000: broken;"):
        list(loader)
