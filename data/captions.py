"""Captions of a folder of images: `NAME.txt` next to NAME.jpg, or one file of lines for all."""

import json
import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..common.errors import UserError

LINES_FILE = "captions.jsonl"
NONE, WRITTEN, OWN_FILE = 0, 1, 2  # no caption; a line of the file; a file of its own, read when the image is


class Captions:
    """One or none per image, packed as ImageList packs names: a million must not weigh on every worker process."""

    def __init__(self, *, names: Sequence[str], found: Mapping[str, str | None]):
        """found: as captions_of gives it."""
        written = [(found.get(name) or "").encode("utf-8", "surrogatepass") for name in names]
        self._bytes = b"".join(written)
        self._ends = np.cumsum([0, *map(len, written)], dtype=np.int64)
        where = [NONE if name not in found else OWN_FILE if found[name] is None else WRITTEN for name in names]
        self.where = np.array(where, dtype=np.int8)

    def __len__(self) -> int:
        return len(self.where)

    def of(self, index: int, picture: Path) -> str | None:
        if self.where[index] == WRITTEN:
            return self._bytes[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogatepass")
        return _text_of(picture) if self.where[index] == OWN_FILE else None


def captions_of(root: Path, names: Sequence[str], setting: str) -> dict[str, str | None] | None:
    """{name: its line, or None where NAME.txt holds it}, without names that have no caption; null: read none."""
    if setting == "none":
        return None
    if setting != "auto":
        return dict(_lines_of(Path(setting).expanduser(), root, names))
    found: dict[str, str | None] = dict.fromkeys(_with_own_file(root, names))
    if (root / LINES_FILE).is_file():
        found |= _lines_of(root / LINES_FILE, root, names)
    return found


def _with_own_file(root: Path, names: Sequence[str]) -> Iterable[str]:
    """Lists each folder once instead of asking for every file."""
    texts: dict[str, set[str]] = {}
    for name in names:
        folder, stem = posixpath.split(posixpath.splitext(name)[0])
        if folder not in texts:
            texts[folder] = {n[:-4] for n in os.listdir(root / folder) if n.endswith(".txt")}
        if stem in texts[folder]:
            yield name


def _lines_of(file: Path, root: Path, names: Sequence[str]) -> dict[str, str]:
    """An image named twice keeps its first caption; empty ones are none."""
    known, lines = set(names), 0
    found: dict[str, str] = {}
    try:
        with open(file, encoding="utf-8", errors="replace") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    lines += 1
                    name, text = _parsed(line, f"{file}, line {number}")
                    if name in known and text:
                        found.setdefault(name, text)
    except FileNotFoundError:
        raise UserError(
            f"data.captions={file}: no such file; auto looks for {LINES_FILE} in data.root and NAME.txt beside the "
            "pictures, none reads no captions"
        ) from None
    except OSError as error:
        raise UserError(f"data.captions={file}: cannot be read ({error.strerror})") from None
    if lines and not found:
        raise UserError(
            f'data.captions={file}: none of its {lines} lines is of a picture below {root}; "file" is relative to it'
        )
    return found


def _parsed(line: str, where: str) -> tuple[str, str]:
    try:
        entry = json.loads(line)
        name, text = entry["file"], entry["caption"]
        assert isinstance(name, str) and isinstance(text, str)
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError):
        raise UserError(
            f'data.captions: {where}: expected {{"file": "folder/a.jpg", "caption": "a red car"}}, not '
            f"{line.strip()[:50]}"
        ) from None
    return posixpath.normpath(name), in_one_line(text)


def _text_of(picture: Path) -> str:
    file = picture.with_suffix(".txt")
    try:
        return in_one_line(file.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise UserError(
            f"{file}: this caption cannot be read ({error.strerror}); restore it, or data.captions=none"
        ) from None


def in_one_line(text: str) -> str:
    return " ".join(text.split())
