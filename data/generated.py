"""Generated images, so that everything runs without data files: `data=generated`."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .generated_cache import Recipe, cached_pictures
from .scenes import COLOURS, POSITIONS, SHAPES, SIZES, WORDS, Scene, Thing
from .source import Images, Joined, Source, Splits


class GeneratedList(Images):
    """One split. Image i depends on (seed, split, i) alone; the first one read has the whole split drawn."""

    cached: bool = True

    def __init__(self, *, recipe: Recipe, cached: bool, file: Path | None = None):
        self.recipe, self.cached, self.file = recipe, cached, file
        self._pixels: np.memmap | None = None
        self._scene = lru_cache(maxsize=4096)(recipe.scene)

    def prepare(self) -> None:
        if self.cached and self.file is None:
            self.file = cached_pictures(self.recipe)
            self.cached = self.file is not None  # the disk has refused it

    def __getstate__(self) -> dict:  # a mapped file would travel to a spawned worker as all of its bytes
        return {"recipe": self.recipe, "cached": self.cached, "file": self.file}

    def __setstate__(self, state: dict) -> None:
        GeneratedList.__init__(self, **state)

    def __len__(self) -> int:
        return self.recipe.count

    def read(self, index: int, *, at_least: int | None = None) -> Tensor:
        self.prepare()
        if self.file is None:
            return torch.from_numpy(self.recipe.picture(index))
        if self._pixels is None:
            self._pixels = np.memmap(self.file, dtype=np.uint8, mode="r", shape=self.recipe.shape)
        return torch.from_numpy(np.array(self._pixels[index]))

    def scene(self, index: int) -> Scene:
        return self._scene(index)

    def key(self, index: int) -> str:
        return f"{self.recipe.split}_{index:06d}"

    def label(self, index: int) -> int:
        return self.scene(index).label

    def caption(self, index: int) -> str:
        return self.scene(index).caption

    def captioned(self) -> Sequence[int]:
        return range(len(self))


class GeneratedImages(Source):
    """Dead leaves, 1/f textures and light behind one or two objects of a known shape, colour, size and place.

    count, val_count: images per split. text_share: share of the images that show a word.
    cache: keep the pixels on disk; false draws each image anew at every reading.
    """

    name = "generated"
    class_names = SHAPES

    def __init__(
        self,
        *,
        image_size: int = 256,
        count: int = 8192,
        val_count: int = 512,
        seed: int = 0,
        text_share: float = 0.3,
        cache: bool = True,
    ):
        for key, value in (("count", count), ("val_count", val_count)):
            if value < 1:
                raise ValueError(f"{key}={value}: at least 1 image")
        if image_size < 16:
            raise ValueError(f"image_size={image_size}: generated images need at least 16 pixels a side")
        if not 0 <= text_share <= 1:
            raise ValueError(f"text_share={text_share}: a share between 0 and 1")
        if seed < 0:
            raise ValueError(f"seed={seed}: 0 or more")
        self.recipes = {
            split: Recipe(size=image_size, seed=seed, count=number, split=split, text_share=float(text_share))
            for split, number in (("train", count), ("val", val_count))
        }
        self.cache = cache

    def split_sources(self) -> Splits:
        lists = {s: GeneratedList(recipe=recipe, cached=self.cache) for s, recipe in self.recipes.items()}
        return Splits(**lists, all=Joined(*lists.values()))

    def scenes(self, split: str = "val") -> list[Scene]:
        """What every image shows, for probes: label, shapes, colours, places, words."""
        recipe = self.recipes[split]
        return [recipe.scene(index) for index in range(recipe.count)]

    @staticmethod
    def vocabulary() -> dict[str, tuple[str, ...]]:
        """The names that scenes use."""
        return {
            "shape": SHAPES,
            "colour": tuple(COLOURS),
            "position": tuple(POSITIONS),
            "size": tuple(SIZES),
            "word": WORDS,
        }

    def prompts(self, class_name: str) -> list[str]:
        """Every caption of one such object."""
        return [
            Thing(class_name, colour, size, position, 0.0, 0.0, 0.0, 0.0).caption
            for size in SIZES
            for colour in COLOURS
            for position in POSITIONS
        ]

    def describe(self) -> dict:
        train = self.recipes["train"]
        return {
            "name": self.name,
            "root": None,
            "split": f"seeds apart (seed {train.seed}, drawing version {train.version}, text in {train.text_share:g})",
        }
