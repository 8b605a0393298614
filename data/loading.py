"""From sample numbers to batches: what runs inside the worker processes, and the loader around them."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..common.caption_numbers import CaptionNumbers
from ..common.errors import UserError
from .image_file import UnreadableImage
from .sampling import mixed
from .source import Images
from .transforms import Crop, random_flip
from .worker import begin_worker

HASHED_ATTEMPTS = 16  # substitutes drawn at random before every image is tried in turn


class TrainImages(Dataset):
    """(sample number, image index) to a sample; the crop's and the flip's randomness is seeded by (seed, sample)."""

    def __init__(self, *, images: Images, crop: Crop, flip: bool, seed: int):
        self.images, self.crop, self.flip, self.seed = images, crop, flip, seed
        self._broken: dict[int, str] = {}  # of this process: saves reading a bad file twice, changes no outcome

    def __getitem__(self, item: tuple[int, int]) -> dict:
        sample, index = item
        skipped: list[str] = []
        for attempt in range(HASHED_ATTEMPTS + len(self.images)):
            if attempt > HASHED_ATTEMPTS:
                index = (index + 1) % len(self.images)
            elif attempt > 0:
                index = mixed(self.seed, 2, sample, attempt) % len(self.images)
            image = self._read(index, skipped)
            if image is not None:
                generator = torch.Generator().manual_seed(mixed(self.seed, 3, sample))
                image = self.crop(image, generator)
                if self.flip:
                    image = random_flip(image, generator)
                return _sample(self.images, index, image, skipped)
        return {"image": None, "skipped": skipped}

    def _read(self, index: int, skipped: list[str]) -> Tensor | None:
        if index not in self._broken:
            try:
                return self.images.read(index, at_least=self.crop.decode_at_least)
            except UnreadableImage as error:
                self._broken[index] = str(error)
        skipped.append(self._broken[index])
        return None


class EvalImages(Dataset):
    """Each image once, in order, cropped without chance; an unreadable one comes without an image."""

    def __init__(self, *, images: Images, crop: Crop):
        self.images, self.crop = images, crop

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        try:
            return _sample(self.images, index, self.crop(self.images.read(index)), [])
        except UnreadableImage as error:
            return {"image": None, "skipped": [str(error)]}


def _sample(images: Images, index: int, image: Tensor, skipped: list[str]) -> dict:
    sample = {"image": image, "label": images.label(index), "key": images.key(index), "skipped": skipped}
    caption = images.caption(index)
    return sample if caption is None else sample | {"caption": caption}


def collate(samples: list[dict], numbers: Sequence[CaptionNumbers] = ()) -> dict:
    """uint8 [B, 3, H, W], labels, names; samples without an image leave only their `skipped` lines."""
    read = [s for s in samples if s["image"] is not None]
    batch: dict[str, Any] = {
        "image": torch.stack([s["image"].contiguous() for s in read]) if read else None,
        "label": torch.tensor([s["label"] for s in read], dtype=torch.int64),
        "key": [s["key"] for s in read],
        "skipped": list(dict.fromkeys(line for s in samples for line in s["skipped"])),
    }
    if any("caption" in s for s in read):
        batch["caption"] = [s.get("caption") for s in read]
        captions = [caption for caption in batch["caption"] if caption is not None]
        if numbers and len(captions) == len(read):
            batch["caption_numbers"] = {made.key: made(captions) for made in numbers}
    return batch


class ImageLoader(DataLoader):
    """A DataLoader whose batches always hold an image.

    A batch whose files are all unreadable hands its `skipped` lines to the batch before it (the first ones: to the
    batch after). Where nothing at all can be read, the user gets one line, and not a worker's traceback.
    """

    def __init__(self, *args: Any, described_as: str, complete: bool, **kwargs: Any) -> None:
        super().__init__(*args, **{"worker_init_fn": begin_worker, **kwargs})
        # complete: training batches; a single sample without an image means that no image at all can be read.
        self.described_as, self.complete = described_as, complete

    def __iter__(self) -> Iterator[dict]:  # type: ignore[override]  # torch names its own iterator classes
        held: dict | None = None
        early: list[str] = []
        for batch in super().__iter__():
            if batch["image"] is None:
                if self.complete:
                    raise self._nothing_readable(batch["skipped"])
                (early if held is None else held["skipped"]).extend(batch["skipped"])
            elif self.complete:
                yield batch
            else:
                batch["skipped"][:0], early = early, []
                if held is not None:
                    yield held
                held = batch
        if held is not None:
            yield held
        elif early:
            raise self._nothing_readable(early)

    def _nothing_readable(self, skipped: list[str]) -> UserError:
        return UserError(
            f"data.root={self.described_as}: none of the images could be read; first: {skipped[0]}; "
            "check the files, or give another folder"
        )
