"""A list of image files below one root, packed so that a million names take little memory in each worker process."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from .captions import Captions
from .image_file import MAX_PIXELS, read_image
from .source import Images


class ImageList(Images):
    def __init__(
        self,
        *,
        root: Path,
        names: Sequence[str],
        labels: Sequence[int] | np.ndarray,
        max_pixels: int = MAX_PIXELS,
        captions: Captions | None = None,
    ):
        """captions: in the order of names."""
        assert len(names) == len(labels)
        assert captions is None or len(captions) == len(names)
        self.root, self.max_pixels = root, max_pixels
        # One array instead of a list: forked workers would copy every page whose reference counts they touch.
        self._names = np.array([os.fsencode(name) for name in names])
        self._labels = np.asarray(labels, dtype=np.int64)
        self._captions = captions

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int, *, at_least: int | None = None) -> Tensor:
        return read_image(self.root / self.key(index), max_pixels=self.max_pixels, at_least=at_least)

    def key(self, index: int) -> str:
        return os.fsdecode(self._names[index])

    def label(self, index: int) -> int:
        return int(self._labels[index])

    def caption(self, index: int) -> str | None:
        return None if self._captions is None else self._captions.of(index, self.root / self.key(index))

    def captioned(self) -> Sequence[int] | np.ndarray:
        return [] if self._captions is None else np.flatnonzero(self._captions.where)
