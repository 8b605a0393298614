"""Data module of images. Batches are pure functions of (seed, sample number)."""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from lightning import LightningDataModule
from torch.utils.data import Subset

from ..common.caption_numbers import CaptionNumbers
from ..common.cores import usable_cores
from ..common.distributed import process_count, rank
from ..common.errors import UserError
from ..common.pixels import to_model_range
from .batch_division import MOST_EVAL_IMAGES, BatchDivision, divide_batch
from .loading import EvalImages, ImageLoader, TrainImages, collate
from .sampling import EpochOrder, TrainBatches
from .source import Chosen, Images, Source, Splits
from .transforms import CROPS, AdmCentreCrop, Crop


class ImageData(LightningDataModule):
    """source: where images come from. train_crop / val_crop: a name of CROPS, a Crop; null is the ADM centre crop.

    batch_size: the images of one update, over all processes and micro-batches.
    batch_per_device: of them, how many a process takes at once; null: its share, in `accumulate` micro-batches.
    eval_batch_size: of a process; null: batch_per_device or batch_size, at most 64.

    Sample s of training (0, 1, 2 ...) is an image of a permutation seeded by (seed, s // len_train), its augmentation
    seeded by (seed, s): nothing depends on the number of workers, and a run resumes exactly where it stopped.
    """

    aliases_of = "source"  # the YAML repeats its settings one level up: data.root=DIR is what people type

    def __init__(
        self,
        *,
        source: Source,
        image_size: int = 256,
        batch_size: int = 32,
        batch_per_device: int | None = None,
        eval_batch_size: int | None = None,
        num_workers: int | str = "auto",
        train_crop: Crop | str | None = None,
        val_crop: Crop | str | None = None,
        flip: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        for key, value in (
            ("image_size", image_size),
            ("batch_size", batch_size),
            ("batch_per_device", batch_per_device),
            ("eval_batch_size", eval_batch_size),
        ):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{key}={value}: a whole number of at least 1")
        if num_workers != "auto" and (not isinstance(num_workers, int) or num_workers < 0):
            raise ValueError(f"num_workers={num_workers}: auto, or a whole number of at least 0")
        self.source, self.image_size, self.seed, self.flip = source, image_size, seed, flip
        self.batch_size, self.batch_per_device = batch_size, batch_per_device
        self.accumulate: int | None = None  # trainer.accumulate, in a run
        self.eval_batch_size = eval_batch_size or min(batch_per_device or batch_size, MOST_EVAL_IMAGES)
        self.num_workers = num_workers
        self.train_crop = _crop("train_crop", train_crop, image_size)
        self.val_crop = _crop("val_crop", val_crop, image_size)
        self.caption_numbers: dict[str, CaptionNumbers] = {}
        self._splits: Splits | None = None
        self.begin_at(0)

    @property
    def splits(self) -> Splits:
        """Listed (or drawn) at the first use, so that composing a config touches no disk."""
        if self._splits is None:
            self._splits = self.source.split_sources()
        return self._splits

    def take_captioned(self, asked_by: str, *, used: Sequence[str] = ("train", "val")) -> None:
        """Only images with a caption from here on.

        asked_by: the YAML key that reads captions, for errors. used: the lists that must not be empty then.
        """
        whole = self.splits
        found = {name: getattr(whole, name).captioned() for name in ("train", "val", "all")}
        missing = {name: len(getattr(whole, name)) - len(chosen) for name, chosen in found.items()}
        root = self.source.describe()["root"]
        where = f"data={self.source.name}" + (f" data.root={root}" if root else "")
        if not len(found["all"]):
            raise UserError(f"{asked_by} reads captions, and {where} has none; {self.source.how_to_caption()}")
        for name in used:
            if not len(found[name]):
                raise UserError(
                    f"{asked_by} reads captions, and no picture of {where}, {name} split, has one; caption some of "
                    f"its {len(getattr(whole, name))}, or divide them anew (data.val_fraction, data.seed)"
                )
        if missing["all"] and rank() == 0:
            print(
                f"imtok: note: {missing['all']} of {len(whole.all)} pictures have no caption, which {asked_by} reads; "
                f"they are left out ({missing['train']} of training, {missing['val']} of validation)",
                file=sys.stderr,
            )
        chosen = {n: Chosen(getattr(whole, n), found[n]) if missing[n] else getattr(whole, n) for n in found}
        self._splits = Splits(**chosen)

    def number_captions(self, numbers: CaptionNumbers) -> None:
        """Training batches hold these numbers as well from here on: workers make them while the device computes."""
        self.caption_numbers[numbers.key] = numbers

    @property
    def len_train(self) -> int:
        return len(self.splits.train)

    @property
    def len_val(self) -> int:
        return len(self.splits.val)

    def prepare_data(self) -> None:
        """Draws what is not there yet, ahead of the loaders."""
        for images in (self.splits.train, self.splits.val):
            images.prepare()

    @property
    def division(self) -> BatchDivision:
        """Over the processes that have started."""
        return divide_batch(
            batch_size=self.batch_size,
            batch_per_device=self.batch_per_device,
            accumulate=self.accumulate,
            processes=process_count(),
        )

    def begin_at(self, start_sample: int, *, num_batches: int | None = None, max_val_images: int | None = None) -> None:
        """What a Trainer reads: training from a sample on, one epoch if `num_batches` is None; this much validation."""
        self.start_sample, self.num_batches, self.max_val_images = start_sample, num_batches, max_val_images

    def train_dataloader(self) -> ImageLoader:
        together = self.division.per_device * process_count()
        batches = self.num_batches if self.num_batches is not None else self.len_train // together
        overfit = getattr(self.trainer, "overfit_batches", 0)  # a number of batches, or a share of an epoch
        repeat = max(1, int(overfit * self.len_train / together)) if isinstance(overfit, float) and overfit else overfit
        return self.train_loader(start_sample=self.start_sample, num_batches=batches, repeat=int(repeat))

    def val_dataloader(self) -> ImageLoader:
        ranks = process_count()
        if self.len_val < ranks:
            raise UserError(
                f"data: {self.len_val} images for validation and {ranks} processes, each of which needs one; give more "
                "(data.val_fraction, data.max_val), or start fewer processes"
            )
        return self.val_loader(None if self.max_val_images is None else max(self.max_val_images, ranks))

    def on_after_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        return self.prepare_batch(batch, batch["image"].device)

    def train_loader(self, *, start_sample: int = 0, num_batches: int, repeat: int = 0) -> ImageLoader:
        """`num_batches` micro-batches for this process, the first beginning at sample `start_sample` of all processes.

        repeat: this many batches over and over.
        """
        images = self.splits.train
        batches = TrainBatches(
            order=EpochOrder(length=len(images), seed=self.seed),
            start_sample=start_sample,
            num_batches=num_batches,
            batch_size=self.division.per_device,
            rank=rank(),
            world_size=process_count(),
            repeat=repeat,
        )
        dataset = TrainImages(images=images, crop=self.train_crop, flip=self.flip, seed=self.seed)
        return self._loader(dataset, images, complete=True, batch_sampler=batches)

    def val_loader(self, max_images: int | None = None) -> ImageLoader:
        """The validation images, each once, in the same order always; max_images: at most, evenly spread."""
        return self._eval_loader(self.splits.val, max_images)

    def all_loader(self, max_images: int | None = None) -> ImageLoader:
        """Every image, training and validation: to judge a folder that nobody trained on."""
        return self._eval_loader(self.splits.all, max_images)

    def fit_loader(self, max_images: int | None = None) -> ImageLoader:
        """Training images as they are for evaluation, each once, evenly spread: what probes are fitted on."""
        return self._eval_loader(self.splits.train, max_images)

    def _eval_loader(self, images: Images, max_images: int | None) -> ImageLoader:
        count = len(images) if max_images is None else min(max_images, len(images))
        chosen = [i * len(images) // count for i in range(count)]  # evenly: names are often sorted by class
        dataset = Subset(EvalImages(images=images, crop=self.val_crop), chosen[rank() :: process_count()])
        return self._loader(dataset, images, complete=False, batch_size=self.eval_batch_size, shuffle=False)

    def _loader(self, dataset, images: Images, *, complete: bool, **how) -> ImageLoader:
        images.prepare()
        workers = self._workers(images)
        return ImageLoader(
            dataset,
            described_as=str(self.source.describe().get("root")),
            complete=complete,
            collate_fn=partial(collate, numbers=tuple(self.caption_numbers.values())) if complete else collate,
            num_workers=workers,
            persistent_workers=workers > 0 and complete,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4 if workers else None,
            generator=torch.Generator().manual_seed(0),  # else each pass would draw from the global one
            **how,
        )

    def _workers(self, images: Images) -> int:
        if isinstance(self.num_workers, int):
            return self.num_workers
        cores = usable_cores()
        return 0 if images.cached and cores <= 4 else min(max(cores - 1, 0), 8)

    def prepare_batch(self, batch: dict, device: torch.device | str) -> dict:
        """To the device as bytes (a quarter of the traffic), and there to [-1, 1]."""
        image, label = batch["image"].to(device, non_blocking=True), batch["label"].to(device, non_blocking=True)
        return {**batch, "image": to_model_range(image) if image.dtype == torch.uint8 else image, "label": label}

    def describe(self) -> dict:
        """Plain values, for protocols and model cards."""
        splits = self.splits  # first: only then does the source know how it was split
        return {
            **self.source.describe(),
            "image_size": self.image_size,
            "num_train": len(splits.train),
            "num_val": len(splits.val),
            **({"captions": len(captioned)} if len(captioned := splits.all.captioned()) else {}),
            "train_crop": self.train_crop.describe() + (", flip" if self.flip else ""),
            "val_crop": self.val_crop.describe(),
        }

    def write_split(self, folder: str | Path) -> None:
        self.source.write_split(folder)


def _crop(key: str, given: Crop | str | None, image_size: int) -> Crop:
    crop = AdmCentreCrop(size=image_size) if given is None else given
    if isinstance(crop, str) and crop in CROPS:
        crop = CROPS[crop](size=image_size)
    if not isinstance(crop, Crop):
        raise ValueError(f"{key}={crop}: give {', '.join(CROPS)}, or {{_target_: ..., size: ...}}")
    if crop.size != image_size:
        raise ValueError(f"{key}={crop.size} pixels, but image_size={image_size}: leave size: ${{data.image_size}}")
    return crop
