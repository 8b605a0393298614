"""What the data module asks of a source of images."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


class Images(ABC):
    """A fixed list of pictures. Cheap to pickle: worker processes receive a copy."""

    cached = False  # True where reading costs next to nothing, so that worker processes would only add overhead

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

    @abstractmethod
    def describe(self) -> dict:
        """name, root, split: what a protocol prints."""

    def prompts(self, class_name: str) -> Sequence[str]:
        """What a text tower may read about a class, for zero-shot classification."""
        return [f"a photo of a {class_name}"]

    def write_split(self, folder: str | Path) -> None:  # noqa: B027 (sources with a published split have nothing to record)
        """Record a split that was drawn here, so that a later evaluation finds the same one."""


class Joined(Images):
    """One list after another."""

    def __init__(self, *parts: Images):
        self.parts = parts

    @property
    def cached(self) -> bool:
        return all(part.cached for part in self.parts)

    def prepare(self) -> None:
        for part in self.parts:
            part.prepare()

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def _find(self, index: int) -> tuple[Images, int]:
        for part in self.parts:
            if index < len(part):
                return part, index
            index -= len(part)
        raise IndexError(index)

    def read(self, index: int, *, at_least: int | None = None) -> Tensor:
        part, index = self._find(index)
        return part.read(index, at_least=at_least)

    def key(self, index: int) -> str:
        part, index = self._find(index)
        return part.key(index)

    def label(self, index: int) -> int:
        part, index = self._find(index)
        return part.label(index)

    def caption(self, index: int) -> str | None:
        part, index = self._find(index)
        return part.caption(index)
