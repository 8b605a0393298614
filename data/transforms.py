"""Crops on uint8 [3, H, W]. Randomness comes from the generator handed in and from nothing else.

`decode_at_least` of a crop: the short side (pixels) an image must be decoded at so that the crop never has to
enlarge what the file holds in full; `image_file.read_image` may then decode a large JPEG at a fraction of its size.
None asks for every pixel.
"""

import math
from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

Mode = Literal["bicubic", "bilinear"]


def resized(image: Tensor, height: int, width: int, mode: Mode = "bicubic", *, antialias: bool = True) -> Tensor:
    """For bytes torch follows Pillow's arithmetic with antialias, OpenCV's without (at most one level apart)."""
    if image.shape[-2:] == (height, width):
        return image
    return F.interpolate(image[None], (height, width), mode=mode, antialias=antialias)[0]


def _halved(image: Tensor, axis: int) -> Tensor:
    """Box filter to floor(n / 2) along one axis, with the windows and the rounding of Pillow's BOX resize."""
    size = image.shape[axis]
    if size % 2 == 0:
        pairs = image.unflatten(axis, (size // 2, 2)).to(torch.int16)
        after = axis % image.ndim + 1
        return ((pairs.select(after, 0) + pairs.select(after, 1) + 1) >> 1).to(torch.uint8)
    # An odd length: windows are a little over two pixels wide, and those whose centre falls inside count.
    half = size // 2
    scale = size / half
    centre = (np.arange(half) + 0.5) * scale
    first = (centre - scale / 2 + 0.5).astype(np.int64)
    shape = [half if d == axis else 1 for d in range(image.ndim)]
    sums, counts = (torch.zeros(shape, dtype=torch.int32) for _ in range(2))
    for tap in range(4):
        pixel = first + tap
        offset = (pixel - centre + 0.5) * (1 / scale)
        inside = (offset > -0.5) & (offset <= 0.5) & (pixel < size)
        counts_here = torch.from_numpy(inside.astype(np.int32)).reshape(shape)
        sums = sums + image.index_select(axis, torch.from_numpy(np.minimum(pixel, size - 1))) * counts_here
        counts += counts_here
    return ((2 * sums + counts) // (2 * counts)).to(torch.uint8)


def box_halved(image: Tensor) -> Tensor:
    """Along rows first, as Pillow had it when the published figures were made; Pillow 13 turns the order round for tall
    images (at most one level apart)."""
    return _halved(_halved(image, 2), 1)


def adm_resized(image: Tensor, short_side: int) -> Tensor:
    """ADM's resize: halve with a box filter while that leaves at least the target, then bicubic to it."""
    while min(image.shape[-2:]) >= 2 * short_side:
        image = box_halved(image)
    scale = short_side / min(image.shape[-2:])
    height, width = (round(side * scale) for side in image.shape[-2:])
    return resized(image, height, width)


def adm_centre_crop(image: Tensor, size: int) -> Tensor:
    """The crop of ADM's evaluation (Dhariwal & Nichol 2021), on which published rFID figures rest."""
    return _centre(adm_resized(image, size), size)


def _centre(image: Tensor, size: int) -> Tensor:
    top, left = ((side - size) // 2 for side in image.shape[-2:])
    return image[:, top : top + size, left : left + size]


def _uniform(generator: Generator | None) -> float:
    assert generator is not None, "random crops are given one"
    return torch.rand((), generator=generator, dtype=torch.float64).item()


def _random_window(image: Tensor, rows: int, columns: int, generator: Generator | None) -> Tensor:
    height, width = image.shape[-2:]
    top = int(_uniform(generator) * (height - rows + 1))
    left = int(_uniform(generator) * (width - columns + 1))
    return image[:, top : top + rows, left : left + columns]


class Crop(ABC):
    """uint8 [3, H, W] of any size to uint8 [3, size, size]."""

    name: str
    decode_at_least: int | None = None

    def __init__(self, *, size: int):
        self.size = size

    @abstractmethod
    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor: ...

    def describe(self) -> str:
        return f"{self.name} {self.size}"


class AdmCentreCrop(Crop):
    name = "ADM centre crop (box halving, bicubic)"

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        return adm_centre_crop(image, self.size)


class CentreCrop(Crop):
    """Short side to `size` in one step, then the centre."""

    def __init__(self, *, size: int, mode: Mode = "bicubic"):
        super().__init__(size=size)
        self.mode = mode
        self.name = f"centre crop ({mode})"

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        scale = self.size / min(image.shape[-2:])
        height, width = (max(round(side * scale), self.size) for side in image.shape[-2:])
        return _centre(resized(image, height, width, self.mode), self.size)


class RandomCrop(Crop):
    """Short side to `size` in one step, then a random window: TiTok's (bicubic), Open-MAGVIT2's (bilinear).

    antialias: false samples between the nearest four pixels (bilinear) however large the file is, as OpenCV and with
    it albumentations does: VQGAN's. The file is then decoded in full.
    """

    def __init__(self, *, size: int, mode: Mode = "bicubic", antialias: bool = True):
        super().__init__(size=size)
        self.mode, self.antialias = mode, antialias
        self.name = f"random crop ({mode}{'' if antialias else ', no antialias'})"
        self.decode_at_least = size if antialias else None

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        # Cut first: less work than to resize what falls away, and less than half a pixel off.
        side = min(image.shape[-2:])
        window = _random_window(image, side, side, generator)
        return resized(window, self.size, self.size, self.mode, antialias=self.antialias)


class AdmRandomCrop(Crop):
    """Short side at random between size / max_fraction and size / min_fraction, then a random window.

    The augmentation of ADM and LlamaGen: mild, and the image keeps its aspect.
    """

    name = "ADM random crop"

    def __init__(self, *, size: int, min_fraction: float = 0.8, max_fraction: float = 1.0):
        super().__init__(size=size)
        if not 0 < min_fraction <= max_fraction <= 1:
            raise ValueError(f"min_fraction={min_fraction}, max_fraction={max_fraction}: 0 < min <= max <= 1 is needed")
        self.smallest = math.ceil(size / max_fraction)
        self.largest = math.ceil(size / min_fraction)
        self.decode_at_least = self.largest

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        short_side = self.smallest + int(_uniform(generator) * (self.largest - self.smallest + 1))
        # Cut first, then resize the window alone: a quarter less work, and less than half a pixel off the other order.
        side = max(1, round(min(image.shape[-2:]) * self.size / short_side))
        return adm_resized(_random_window(image, side, side, generator), self.size)

    def describe(self) -> str:
        return f"{self.name} {self.size} of a short side in {self.smallest}..{self.largest}"


class RandomResizedCrop(Crop):
    """A window of random area and aspect, resized to the target (Szegedy et al. 2015, as torchvision has it)."""

    name = "random resized crop"

    def __init__(
        self,
        *,
        size: int,
        min_area: float = 0.2,
        max_area: float = 1.0,
        max_aspect: float = 4 / 3,
        mode: Mode = "bicubic",
    ):
        super().__init__(size=size)
        if not 0 < min_area <= max_area <= 1:
            raise ValueError(f"min_area={min_area}, max_area={max_area}: 0 < min <= max <= 1 is needed")
        if max_aspect < 1:
            raise ValueError(f"max_aspect={max_aspect}: the longer side over the shorter, at least 1")
        self.min_area, self.max_area, self.max_aspect, self.mode = min_area, max_area, max_aspect, mode
        self.decode_at_least = math.ceil(size / math.sqrt(min_area / max_aspect))

    def __call__(self, image: Tensor, generator: Generator | None = None) -> Tensor:
        height, width = image.shape[-2:]
        rows, columns = self._window_size(height, width, generator)
        return resized(_random_window(image, rows, columns, generator), self.size, self.size, self.mode)

    def _window_size(self, height: int, width: int, generator: Generator | None) -> tuple[int, int]:
        for _ in range(10):
            area = height * width * (self.min_area + _uniform(generator) * (self.max_area - self.min_area))
            aspect = self.max_aspect ** (2 * _uniform(generator) - 1)
            rows, columns = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
            if 0 < rows <= height and 0 < columns <= width:
                return rows, columns
        # A very long image: its largest window of an allowed aspect.
        return min(height, round(width * self.max_aspect)), min(width, round(height * self.max_aspect))

    def describe(self) -> str:
        return f"{self.name} {self.size}, area {self.min_area:g}..{self.max_area:g}"


def random_flip(image: Tensor, generator: Generator) -> Tensor:
    return image.flip(-1) if _uniform(generator) < 0.5 else image


# What `data.train_crop=NAME` means, each with its default settings.
CROPS: dict[str, type[Crop]] = {
    "adm_random": AdmRandomCrop,
    "random": RandomCrop,
    "random_resized": RandomResizedCrop,
    "adm_centre": AdmCentreCrop,
    "centre": CentreCrop,
}
