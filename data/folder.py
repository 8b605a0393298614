"""Any folder of images, at any depth, with or without class folders; the split is drawn here, once."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..common.errors import UserError
from .captions import Captions, captions_of
from .image_file import MAX_PIXELS, list_images
from .image_list import ImageList
from .source import Source, Splits

SPLIT_FORMAT = 1
OWN_SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation")}


class FolderImages(Source):
    """`data.root`: a folder. Label: the top-level sub-folder, where at least two of them hold images; else -1.

    A root with both a `train` and a `val` folder keeps that split. Otherwise a name goes to validation when the hash
    of (seed, name) falls below `val_fraction`: files added later leave the others where they were.
    split_file: the split.json of a run, to get that run's split again.
    captions: auto (captions.jsonl in the root, and NAME.txt beside an image that it does not name), none, or the path
        of such a file of lines: {"file": path below the root, "caption": text}.
    """

    name = "folder"

    def __init__(
        self,
        *,
        root: str | None,
        val_fraction: float = 0.1,
        max_val: int | None = None,
        seed: int = 0,
        split_file: str | None = None,
        captions: str = "auto",
        max_pixels: int = MAX_PIXELS,
    ):
        if not root:
            raise ValueError("root=null: give data.root=DIR, any folder of images")
        if not 0 < val_fraction < 1:
            raise ValueError(f"val_fraction={val_fraction}: the share kept for validation, between 0 and 1 (0.1)")
        if max_val is not None and max_val < 1:
            raise ValueError(f"max_val={max_val}: at least 1 image, or null for no limit")
        self.root = Path(root).expanduser().resolve()
        self.val_fraction, self.max_val, self.seed, self.max_pixels = val_fraction, max_val, seed, max_pixels
        self.split_file = Path(split_file).expanduser() if split_file else None
        self.captions = captions
        self._names: list[str] | None = None
        self._val: set[str] = set()
        self._how = ""

    def names(self) -> list[str]:
        """Relative paths of all images, sorted."""
        if self._names is None:
            given = f"data.root={self.root}"
            if not self.root.exists():
                raise UserError(f"{given}: no such folder; give the folder that holds the images")
            if not self.root.is_dir():
                raise UserError(f"{given} is a file; give the folder that holds the images")
            try:
                paths = list_images(self.root)
                if not paths and not any(self.root.iterdir()):
                    raise UserError(f"{given}: the folder is empty; put images there or give another folder")
            except PermissionError as error:
                raise UserError(
                    f"{given}: no permission to list {error.filename}; choose a folder you may read"
                ) from None
            if not paths:
                raise UserError(
                    f"{given}: no images in it or below it; files ending in .jpg .png .webp .tif .gif .bmp are read"
                )
            self._names = [path.relative_to(self.root).as_posix() for path in paths]
        return self._names

    def split_sources(self) -> Splits:
        names = self.names()
        own = self._own_split_folders(names)
        if own:
            names = [n for n in names if n.split("/")[0] in own["val"] + own["train"]]
        if self.split_file is not None:
            self._val = _recorded_split(self.split_file, self.root, names)
            self._how = f"as recorded in {self.split_file}"
        elif own:
            self._val = {n for n in names if n.split("/")[0] in own["val"]}
            self._how = "the folders train and val"
        else:
            self._val = self._drawn_split(names)
            self._how = f"by the hash of (seed {self.seed}, name), {self.val_fraction:g} for validation"
        labels = self._labels(names, below=1 if own else 0)
        train = [n for n in names if n not in self._val] or names  # a single image is both
        captions = captions_of(self.root, names, self.captions)
        return Splits(*(self._images(part, labels, captions) for part in (train, sorted(self._val), names)))

    def _images(
        self, names: Sequence[str], labels: dict[str, int], captions: Mapping[str, str | None] | None
    ) -> ImageList:
        return ImageList(
            root=self.root,
            names=names,
            labels=[labels[n] for n in names],
            max_pixels=self.max_pixels,
            captions=Captions(names=names, found=captions) if captions else None,
        )

    def how_to_caption(self) -> str:
        if self.captions != "auto":
            return f"data.captions={self.captions}; auto reads NAME.txt beside NAME.jpg, or captions.jsonl in the root"
        return "put NAME.txt beside NAME.jpg or captions.jsonl into it (docs/unified.md); data=generated has captions"

    def _own_split_folders(self, names: Sequence[str]) -> dict[str, list[str]] | None:
        """The sub-folders that already are a split, as most published data sets come."""
        top = {n.split("/")[0] for n in names if "/" in n}
        own = {part: sorted(top & set(spellings)) for part, spellings in OWN_SPLIT_NAMES.items()}
        return own if own["train"] and own["val"] else None

    def _labels(self, names: Sequence[str], *, below: int) -> dict[str, int]:
        folders = {n: n.split("/")[below] if n.count("/") > below else None for n in names}
        classes = sorted({f for f in folders.values() if f is not None})
        self.class_names = tuple(classes) if len(classes) >= 2 else ()
        numbers = {name: number for number, name in enumerate(self.class_names)}
        return {n: numbers.get(f, -1) if f is not None else -1 for n, f in folders.items()}

    def _drawn_split(self, names: Sequence[str]) -> set[str]:
        place = {n: _place(self.seed, n) for n in names}
        nearest = sorted(names, key=place.__getitem__)
        below = sum(p < self.val_fraction for p in place.values())
        count = min(max(below, 1), self.max_val or len(names), max(len(names) - 1, 1))
        return set(nearest[:count])

    def write_split(self, folder: str | Path) -> None:
        if not self._val:
            self.split_sources()
        split = {
            "format": SPLIT_FORMAT,
            "root": str(self.root),
            "seed": self.seed,
            "how": self._how,
            "num_images": len(self.names()),
            "num_val": len(self._val),
            "val": sorted(self._val),
        }
        Path(folder, "split.json").write_text(json.dumps(split, indent=1, ensure_ascii=True) + "\n")

    def describe(self) -> dict:
        if not self._how:
            self.split_sources()
        return {"name": self.name, "root": str(self.root), "split": self._how}


def _place(seed: int, name: str) -> float:
    """Where a name falls in [0, 1)."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _recorded_split(file: Path, root: Path, names: Sequence[str]) -> set[str]:
    given = f"data.split_file={file}"
    try:
        split = json.loads(file.read_text())
        val = set(split["val"])
    except FileNotFoundError:
        raise UserError(f"{given}: no such file; give the split.json of a run, or null to draw a split") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{given}: not a split.json of imtok ({error}); null draws a new split") from None
    missing = sorted(val - set(names))
    if missing:
        raise UserError(
            f"{given}: {len(missing)} of its {len(val)} validation images are not below data.root={root} "
            f"(first: {missing[0]}); restore them, or data.split_file=null draws a new split"
        )
    return val
