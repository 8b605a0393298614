"""What the data module asks of a source of images."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor


class Images(ABC):
    """A fixed list of images. Cheap to pickle: worker processes receive a copy."""

    @property
    def cached(self) -> bool:
        """True where reading costs next to nothing, so that worker processes would only add overhead."""
        return False

    @abstractmethod
    def __len__(self) -> int: ...

    def prepare(self) -> None:  # noqa: B027 (most lists are ready as they are)
        """Called before a loader reads, ahead of its worker processes: what has to be there for `read`."""

    @abstractmethod
    def read(self, index: int, *, at_least: int | None = None) -> Tensor:
        """uint8 [3, H, W]; raises image_file.UnreadableImage. at_least as in image_file.read_image."""

    @abstractmethod
    def key(self, index: int) -> str:
        """A name that stays the same from run to run."""

    def label(self, index: int) -> int:
        return -1

    def caption(self, index: int) -> str | None:
        return None

    def captioned(self) -> Sequence[int] | np.ndarray:
        """Which images have a caption."""
        return []


class Rearranged(Images):
    """Images of other lists under other numbers."""

    def __init__(self, *parts: Images):
        self.parts = parts

    @abstractmethod
    def find(self, index: int) -> tuple[Images, int]:
        """The list that holds image `index`, and its number there."""

    @property
    def cached(self) -> bool:
        return all(part.cached for part in self.parts)

    def prepare(self) -> None:
        for part in self.parts:
            part.prepare()

    def read(self, index: int, *, at_least: int | None = None) -> Tensor:
        part, index = self.find(index)
        return part.read(index, at_least=at_least)

    def key(self, index: int) -> str:
        part, index = self.find(index)
        return part.key(index)

    def label(self, index: int) -> int:
        part, index = self.find(index)
        return part.label(index)

    def caption(self, index: int) -> str | None:
        part, index = self.find(index)
        return part.caption(index)


class Chosen(Rearranged):
    """Some images of a list."""

    def __init__(self, images: Images, chosen: Sequence[int] | np.ndarray):
        super().__init__(images)
        self.chosen = np.asarray(chosen, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.chosen)

    def find(self, index: int) -> tuple[Images, int]:
        return self.parts[0], int(self.chosen[index])

    def captioned(self) -> np.ndarray:
        return np.flatnonzero(np.isin(self.chosen, self.parts[0].captioned()))


class Joined(Rearranged):
    """One list after another."""

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def find(self, index: int) -> tuple[Images, int]:
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)

    def captioned(self) -> Sequence[int]:
        if all(len(part.captioned()) == len(part) for part in self.parts):
            return range(len(self))  # generated images may be a billion
        starts = np.cumsum([0, *map(len, self.parts)])
        return [int(first) + int(i) for first, part in zip(starts, self.parts, strict=False) for i in part.captioned()]


@dataclass(frozen=True)
class Splits:
    """`all` is every image, for judging a folder that nobody trained on."""

    train: Images
    val: Images
    all: Images


class Source(ABC):
    """A data set: `data.source` in the YAML."""

    name: str
    class_names: Sequence[str] = ()

    @abstractmethod
    def split_sources(self) -> Splits:
        """Raises UserError where the data are not there."""

    def how_to_caption(self) -> str:
        """What the user can do where captions are needed and none are here."""
        return "data=folder reads NAME.txt beside NAME.jpg or a captions.jsonl; data=generated has captions"

    @abstractmethod
    def describe(self) -> dict:
        """name, root, split: what a protocol prints."""

    def prompts(self, class_name: str) -> Sequence[str]:
        """What a text tower may read about a class, for zero-shot classification."""
        return [f"a photo of a {class_name}"]

    def write_split(self, folder: str | Path) -> None:  # noqa: B027 (sources with a published split have nothing to record)
        """Record a split that was drawn here, so that a later evaluation finds the same one."""
