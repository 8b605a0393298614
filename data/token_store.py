"""A folder of indices: shards of packed integers and one index.json that says what they are.

    tokens/index.json          format, the model they belong to, layout, keys in order, skipped files
    tokens/tokens_00000.npy    [n, M, K]; or [n, sum of M * K] where the streams' numbers of codebooks differ
    tokens/tokens_00000.json   keys and skipped files of that shard: what an interrupted run goes on from

Images of different lengths have -1 behind their last token (on disk the type's largest value), and index.json has
their `lengths`.

A shard's .json is written after its .npy, each by rename, so that a shard with a .json is complete.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..common.errors import UserError
from ..common.files import write_atomically, write_text
from ..common.types import IndexSegment

FORMAT = "imtok-tokens"
FORMAT_VERSION = 1
WRITTEN = re.compile(r"tokens_\d{5,}\.(npy|json)|begun\.json|index\.json|\.writing_.*")


def integer_type(layout: Sequence[IndexSegment]) -> np.dtype:
    """The smallest type that holds every index and leaves its largest value free for masked positions (-1)."""
    largest = max(size for segment in layout for size in segment.vocabulary)
    return next(np.dtype(kind) for kind in ("uint16", "uint32", "int64") if largest <= np.iinfo(kind).max)


@dataclass(frozen=True)
class Packing:
    """How one image's indices lie in a row."""

    streams: dict[str, tuple[int, int]]  # {stream: (M, K)}
    dtype: str

    @classmethod
    def of(cls, layout: Sequence[IndexSegment], *, num_tokens: int | None = None) -> "Packing":
        """num_tokens: of every image, where only the first so many of the layout are kept."""
        streams: dict[str, tuple[int, int]] = {}
        for segment in layout:
            length, codebooks = streams.get(segment.stream, (0, len(segment.vocabulary)))
            assert codebooks == len(segment.vocabulary), "segments of one stream have one K"
            streams[segment.stream] = (length + segment.length, codebooks)
        if num_tokens is not None:
            streams = {name: (min(length, num_tokens), codebooks) for name, (length, codebooks) in streams.items()}
        return cls(streams, integer_type(layout).name)

    @property
    def joined(self) -> bool:
        """One [M, K] block: the streams have the same K."""
        return len({k for _, k in self.streams.values()}) == 1

    @property
    def masked(self) -> int:
        dtype = np.dtype(self.dtype)
        return -1 if dtype.kind == "i" else int(np.iinfo(dtype).max)

    def pack(self, indices: Tensor | Mapping[str, Tensor]) -> np.ndarray:
        """int64 with -1 for masked to rows of the stored type."""
        if isinstance(indices, Tensor):
            rows = indices
        else:
            rows = torch.cat([indices[name].flatten(1) for name in self.streams], dim=1)
        rows = rows.cpu()
        return rows.masked_fill(rows < 0, self.masked).numpy().astype(self.dtype)

    def unpack(self, rows: np.ndarray) -> Tensor | dict[str, Tensor]:
        """Back to what `Tokenizer.detokenize` takes."""
        indices = torch.from_numpy(rows.astype(np.int64))
        indices = indices.masked_fill(indices == self.masked, -1)
        if self.joined:
            return indices
        parts = indices.split([m * k for m, k in self.streams.values()], dim=1)
        return {name: part.reshape(-1, m, k) for (name, (m, k)), part in zip(self.streams.items(), parts, strict=True)}


@dataclass
class Shard:
    """What is known of one finished shard."""

    file: str
    keys: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # "path: reason"
    inputs: int = 0  # files consumed, readable or not
    lengths: list[int] = field(default_factory=list)  # of images that choose theirs; empty where all have the same
    missed: int = 0  # images that miss the quality asked for


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, ensure_ascii=False) + "\n")


class TokenWriter:
    """Writes shards; `inputs_done` says where an interrupted run goes on.

    about: everything that decides what the tokens are (model sha256, image size, crop, list of inputs); a folder
    begun with other values is refused.
    num_tokens: of every image, where that is fewer than the layout has.
    """

    def __init__(
        self,
        folder: Path,
        *,
        layout: Sequence[IndexSegment],
        about: dict[str, Any],
        shard_size: int,
        num_tokens: int | None = None,
    ) -> None:
        self.folder, self.about, self.layout, self.shard_size = folder, about, layout, shard_size
        self.packing = Packing.of(layout, num_tokens=num_tokens)
        self.folder.mkdir(parents=True, exist_ok=True)
        begun = folder / "begun.json"
        if begun.is_file():
            before = _read_json(begun)
            changed = [key for key in about if before.get(key) != about[key] and key != "model"]
            if changed:
                raise UserError(
                    f"--out={folder} was begun with another {changed[0]} ({_short(before.get(changed[0]))}, now "
                    f"{_short(about[changed[0]])}); take another folder, or --overwrite to begin anew"
                )
        elif (folder / "index.json").is_file() or any(self._files("tokens_*.npy")):
            raise UserError(f"--out={folder} holds other tokens; take another folder, or --overwrite to begin anew")
        write_json(begun, about)
        self.shards = [Shard(**_read_json(path)) for path in self._files("tokens_*.json")]
        self._open_shard()

    def _files(self, pattern: str) -> list[Path]:
        return sorted(path for path in self.folder.glob(pattern) if WRITTEN.fullmatch(path.name))

    @staticmethod
    def clear(folder: Path) -> None:
        """Remove what a TokenWriter wrote, and nothing else."""
        for path in folder.iterdir():
            if WRITTEN.fullmatch(path.name):
                path.unlink()

    @staticmethod
    def began(folder: Path) -> bool:
        """Whether a TokenWriter has worked there, to its end or not."""
        try:
            if (folder / "begun.json").is_file():
                return {"model_sha256", "inputs"} <= set(_read_json(folder / "begun.json"))
            return _read_json(folder / "index.json").get("format") == FORMAT
        except (OSError, UserError, TypeError, AttributeError):
            return False

    @property
    def inputs_done(self) -> int:
        return sum(shard.inputs for shard in self.shards)

    def add(
        self,
        indices: Tensor | Mapping[str, Tensor] | None,
        *,
        keys: Sequence[str],
        labels: Sequence[int],
        skipped: Sequence[str],
        lengths: Sequence[int] = (),
        missed: int = 0,
    ) -> None:
        """One batch: tokens of `keys`, and files that gave none; lengths where each image has its own."""
        if indices is not None:
            self.rows.append(self.packing.pack(indices))
        self.open.keys += keys
        self.open.labels += labels
        self.open.skipped += skipped
        self.open.lengths += lengths
        self.open.missed += missed
        self.open.inputs += len(keys) + len(skipped)
        if self.open.inputs >= self.shard_size:
            self.close_shard()

    def close_shard(self) -> None:
        if self.open.inputs == 0:
            return
        if self.rows:
            rows = np.concatenate(self.rows)
            write_atomically(self.folder / self.open.file, lambda file: np.save(file, rows))
        write_json((self.folder / self.open.file).with_suffix(".json"), asdict(self.open))
        self.shards.append(self.open)
        self._open_shard()

    def finish(self) -> dict[str, Any]:
        """Write index.json and return it."""
        self.close_shard()
        index = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **self.about,
            "count": sum(len(shard.keys) for shard in self.shards),
            "dtype": self.packing.dtype,
            "masked": self.packing.masked,
            "streams": {name: list(shape) for name, shape in self.packing.streams.items()},
            "layout": [asdict(segment) for segment in self.layout],
            "shards": [{"file": shard.file, "count": len(shard.keys)} for shard in self.shards if shard.keys],
            "keys": [key for shard in self.shards for key in shard.keys],
            "labels": [label for shard in self.shards for label in shard.labels],
            "skipped": [line for shard in self.shards for line in shard.skipped],
        }
        if lengths := [length for shard in self.shards for length in shard.lengths]:
            index |= {"lengths": lengths, "missed": sum(shard.missed for shard in self.shards)}
        write_json(self.folder / "index.json", index)
        return index

    def _open_shard(self) -> None:
        self.open = Shard(f"tokens_{len(self.shards):05d}.npy")
        self.rows: list[np.ndarray] = []


class TokenStore:
    """Reads a finished folder."""

    def __init__(self, folder: Path) -> None:
        if not (folder / "index.json").is_file():
            begun = (folder / "begun.json").is_file()
            why = "its `imtok encode` was interrupted: run that again, it goes on" if begun else "no index.json there"
            raise UserError(f"{folder} is no finished token store; {why}")
        self.folder = folder
        self.index: dict[str, Any] = _read_json(folder / "index.json")
        if not isinstance(self.index, dict) or self.index.get("format") != FORMAT:
            raise UserError(f"{folder}/index.json is not a token store's; `imtok encode` writes them")
        try:  # the file may come from anywhere
            if int(self.index["format_version"]) > FORMAT_VERSION:
                raise UserError(f"{folder} was written by a newer imtok: pip install --upgrade imtok")
            self.keys: list[str] = [str(key) for key in self.index["keys"]]
            self.labels: list[int] = [int(label) for label in self.index["labels"]]
            streams = {name: (int(shape[0]), int(shape[1])) for name, shape in self.index["streams"].items()}
            self.packing = Packing(streams, np.dtype(self.index["dtype"]).name)
            counts = [int(shard["count"]) for shard in self.index["shards"]]
            self.image_size = (int(self.index["image_size"][0]), int(self.index["image_size"][1]))
            if not sum(counts) == len(self.keys) == len(self.labels):
                raise UserError(f"{folder}/index.json: its shards hold {sum(counts)} images, its keys {len(self.keys)}")
        except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
            raise UserError(f"{folder}/index.json is damaged ({type(error).__name__}: {error}); encode again") from None

    def __len__(self) -> int:
        return len(self.keys)

    def batches(self, size: int) -> Iterator[tuple[list[str], list[int], Tensor | dict[str, Tensor]]]:
        """(keys, labels, indices) in order; a batch does not cross shards."""
        start = 0
        for shard in self.index["shards"]:
            path = self.folder / Path(shard["file"]).name
            try:
                rows = np.load(path, mmap_mode="r", allow_pickle=False)
            except (ValueError, EOFError, FileNotFoundError) as error:
                raise UserError(f"{path} cannot be read ({error}); encode again with --overwrite") from error
            if len(rows) != shard["count"]:
                raise UserError(f"{path} holds {len(rows)} images, index.json says {shard['count']}; encode again")
            for at in range(0, len(rows), size):
                here = slice(start + at, start + min(at + size, len(rows)))
                yield self.keys[here], self.labels[here], self.packing.unpack(np.asarray(rows[at : at + size]))
            start += len(rows)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({str(error)[:200]}); encode again with --overwrite") from None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
