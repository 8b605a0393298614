"""Data sets with a split of their own, through torchvision: ImageNet, Imagenette, CIFAR-10."""

import os
from abc import abstractmethod
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torchvision import datasets

from ..common.errors import UserError
from .image_file import list_images
from .image_list import ImageList
from .source import Images, Joined, Source, Splits


def _image_list(root: Path, samples: list[tuple[str, int]]) -> ImageList:
    names = [Path(os.path.relpath(path, root)).as_posix() for path, _ in samples]
    return ImageList(root=root, names=names, labels=[label for _, label in samples])


class _PublishedSplit(Source):
    title: str
    wanted: str  # what the user has to give as data.root

    def __init__(self, *, root: str | None, split: str):
        if not root:
            raise ValueError(f"root=null: give data.root=DIR, {self.wanted}")
        self.root, self.split = Path(root).expanduser().resolve(), split
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"root={self.root}: that is a file; give the folder of {self.title}")

    def split_sources(self) -> Splits:
        train, val = self._part("train"), self._part("val")
        return Splits(train=train, val=val, all=Joined(train, val))

    @abstractmethod
    def _part(self, split: Literal["train", "val"]) -> Images: ...

    def describe(self) -> dict:
        return {"name": self.name, "root": str(self.root), "split": self.split}


class ImageNet(_PublishedSplit):
    """`data.root` holds train/ and val/ with a folder a class (n01440764 ...), or the official archives and the
    devkit, which torchvision then unpacks. A flat val/ (50000 files, no class folders) works too, without labels."""

    name, title, wanted = "imagenet", "ImageNet", "the folder with ImageNet's train/ and val/"

    def __init__(self, *, root: str | None):
        super().__init__(root=root, split="ILSVRC2012 train / val")

    def _part(self, split: Literal["train", "val"]) -> Images:
        folder = self.root / split
        try:
            if not folder.is_dir():
                found = datasets.ImageNet(str(self.root), split=split)
            elif any(entry.is_dir() for entry in os.scandir(folder)):
                found = datasets.ImageFolder(str(folder), allow_empty=True)
            else:
                found = None
        except (RuntimeError, FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"data.root={self.root}: no ImageNet here; put its train/ and val/ folders there, or the archives "
                "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz (image-net.org)"
            ) from None
        if found is not None:
            self.class_names = tuple(found.classes)
        samples = [(str(path), -1) for path in list_images(folder)] if found is None else found.samples
        if not samples:
            raise UserError(f"data.root: {folder} holds no images; unpack ImageNet there")
        return _image_list(self.root, samples)


class Imagenette(_PublishedSplit):
    """Ten easy classes of ImageNet, 9469 + 3925 images. size: full, 320px or 160px (the short side)."""

    name, title = "imagenette", "Imagenette"
    wanted = "a folder for Imagenette (data.download=true fetches it)"

    def __init__(self, *, root: str | None, size: Literal["full", "320px", "160px"] = "full", download: bool = False):
        super().__init__(root=root, split=f"Imagenette train / val ({size})")
        self.size, self.download = size, download

    def _part(self, split: Literal["train", "val"]) -> Images:
        archive = "imagenette2" + ("" if self.size == "full" else f"-{self.size[:-2]}")
        there = (self.root / archive).is_dir()  # torchvision refuses to download twice
        try:
            found = datasets.Imagenette(
                str(self.root), split=split, size=self.size, download=self.download and not there
            )
        except (RuntimeError, OSError) as error:
            raise _absent(self.root, f"the folder {archive}/", error, self.download) from None
        self.class_names = tuple(names[0] for names in found.classes)
        return _image_list(self.root, found._samples)


class Cifar10(_PublishedSplit):
    """60000 images of 32 x 32: 50000 to train on, 10000 to validate."""

    name, title, wanted = "cifar10", "CIFAR-10", "a folder for CIFAR-10 (data.download=true fetches it)"

    def __init__(self, *, root: str | None, download: bool = False):
        super().__init__(root=root, split="CIFAR-10 train / test")
        self.download = download

    def _part(self, split: Literal["train", "val"]) -> Images:
        try:
            found = datasets.CIFAR10(str(self.root), train=split == "train", download=self.download)
        except (RuntimeError, OSError) as error:
            raise _absent(self.root, "the folder cifar-10-batches-py/", error, self.download) from None
        self.class_names = tuple(found.classes)
        pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2)
        name = "train" if split == "train" else "test"
        return ImagesInMemory(name=name, pixels=pixels, labels=torch.tensor(found.targets))


class ImagesInMemory(Images):
    """uint8 [N, 3, H, W], shared with worker processes."""

    cached = True

    def __init__(self, *, name: str, pixels: Tensor, labels: Tensor):
        assert pixels.dtype == torch.uint8 and len(pixels) == len(labels)
        self.name, self.pixels, self.labels = name, pixels.share_memory_(), labels

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int, *, at_least: int | None = None) -> Tensor:
        return self.pixels[index]

    def key(self, index: int) -> str:
        return f"{self.name}/{index:05d}"

    def label(self, index: int) -> int:
        return int(self.labels[index])


def _absent(root: Path, what: str, error: Exception, download: bool) -> UserError:
    if download:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        return UserError(f"data.root={root}: the download failed ({reason}); put {what} there by hand, or try again")
    return UserError(f"data.root={root}: {what} is not there; data.download=true fetches it, or put it there by hand")
