"""JPEG, WebP and AVIF files of at most a given number of bytes.

A file counts whole, with its headers: nobody can decode it without them. Below a codec's smallest file there is nothing
to compare with, and that is what the report then says.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from torch import Tensor


@dataclass(frozen=True)
class Codec:
    name: str
    lowest: int  # of the quality setting, 100 is the highest
    library: str  # as PIL.features names it
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def available(self) -> bool:
        Image.init()
        return self.name.upper() in Image.SAVE

    def describe(self) -> str:
        """Who encodes, and how: other settings give other files."""
        try:
            version = features.version(self.library)
        except ValueError:  # a plugin that Pillow does not know of
            version = None
        options = "".join(f", {name}={value}" for name, value in self.options.items() if name != "max_threads")
        return f"Pillow {Image.__version__}, {self.library} {version or 'of unknown version'}{options}, 4:2:0"

    def encode(self, picture: Image.Image, quality: int) -> bytes:
        file = io.BytesIO()
        picture.save(file, self.name.upper(), quality=quality, **self.options)
        return file.getvalue()


# Pillow's defaults, but for the choices that make files smaller at no loss. One thread: the same file everywhere.
CODECS = (
    Codec("JPEG", 1, "libjpeg_turbo", {"optimize": True}),
    Codec("WebP", 0, "webp", {"method": 6}),
    Codec("AVIF", 0, "avif", {"speed": 6, "max_threads": 1}),
)
MISSING = "this Pillow cannot write {name}; pip install --upgrade pillow (AVIF came with 11.3)"


class Ladder:
    """One image by one codec: files by quality, each made once."""

    def __init__(self, codec: Codec, pixels: Tensor) -> None:
        """pixels: uint8 [3, H, W]"""
        self.codec = codec
        self.picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
        self.files: dict[int, bytes] = {}

    def file(self, quality: int) -> bytes:
        if quality not in self.files:
            self.files[quality] = self.codec.encode(self.picture, quality)
        return self.files[quality]

    def nearest_below(self, budget: float) -> int | None:
        """The highest quality, by bisection, whose file is no larger than so many bytes; None if none is."""
        fits, too_big = self.codec.lowest, 101
        if len(self.file(fits)) > budget:
            return None
        while too_big - fits > 1:
            middle = (fits + too_big) // 2
            if len(self.file(middle)) <= budget:
                fits = middle
            else:
                too_big = middle
        return fits

    def decoded(self, quality: int) -> Tensor:
        """uint8 [3, H, W]"""
        picture = Image.open(io.BytesIO(self.file(quality))).convert("RGB")
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def header_bytes(file: bytes) -> int:
    """What a file holds besides compressed pixels: tables, boxes, markers."""
    if file[:2] == b"\xff\xd8":  # JPEG: all segments up to and with start of scan, and the end marker
        at = 2
        while file[at + 1] != 0xDA:
            at += 2 + int.from_bytes(file[at + 2 : at + 4], "big")
        return at + 2 + int.from_bytes(file[at + 2 : at + 4], "big") + 2
    if file[:4] == b"RIFF":  # WebP: the payload of its VP8 chunk is the image
        at = 12
        while at + 8 <= len(file) and file[at : at + 4] not in (b"VP8 ", b"VP8L"):
            at += 8 + (int.from_bytes(file[at + 4 : at + 8], "little") + 1) // 2 * 2
        return len(file) - int.from_bytes(file[at + 4 : at + 8], "little")
    at, payload = 0, 0
    while at + 8 <= len(file):  # AVIF: the boxes `mdat` are the image
        size = int.from_bytes(file[at : at + 4], "big") or len(file) - at
        if file[at + 4 : at + 8] == b"mdat":
            payload += size - 8
        at += max(size, 8)
    return len(file) - payload
