"""Image files to uint8 RGB [3, H, W], upright, over white, whatever the format."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from .jpeg_header import JpegHeader, read_jpeg_header

MAX_PIXELS = 178_956_970  # what Pillow refuses as a decompression bomb (twice its warning limit)
SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp"))
SYSTEM_FOLDERS = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"))


class UnreadableImage(Exception):
    """A file that holds no image we could decode; `reason` is one short line."""

    def __init__(self, path: str | os.PathLike, reason: str):
        self.path, self.reason = str(path), " ".join(reason.split())
        super().__init__(self.path, self.reason)  # both as args, so that it pickles out of a worker

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def list_images(root: str | os.PathLike) -> list[Path]:
    """Every image file under root at any depth, sorted by its relative path.

    Hidden files and folders (a leading dot) and folders that operating systems leave behind are passed over.
    Links to folders are followed, each real folder once.
    """
    root = Path(root)
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        subfolders[:] = sorted(n for n in subfolders if not n.startswith(".") and n not in SYSTEM_FOLDERS)
        found += (
            os.path.join(folder, name)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES
        )
    return sorted((Path(f) for f in found if os.path.isfile(f)), key=lambda path: path.relative_to(root).as_posix())


def read_image(path: str | os.PathLike, *, max_pixels: int = MAX_PIXELS, at_least: int | None = None) -> Tensor:
    """uint8 [3, H, W]; raises UnreadableImage.

    at_least=None decodes every pixel with libjpeg's exact transform: what evaluation needs, the same on every machine.
    A number allows training's shortcut: a JPEG may come at 1/2, 1/4 or 1/8 of its size (never below `at_least` on
    either side) and through the fast transform, a level or two away from the exact one.
    """
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise UnreadableImage(path, error.strerror or type(error).__name__) from error
    if not data:
        raise UnreadableImage(path, "the file is empty")
    header = read_jpeg_header(data)
    if header is not None:
        _check_pixels(path, header.width, header.height, max_pixels)
        image = _read_jpeg(data, header, at_least)
        if image is not None:
            return image
    return _read_with_pillow(path, data, max_pixels, header, at_least)


def _check_pixels(path: str | os.PathLike, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise UnreadableImage(path, f"{width}x{height} pixels, more than the limit of {max_pixels} (max_pixels)")


def _denominator(header: JpegHeader, at_least: int | None) -> int:
    """The largest of 8, 4, 2 that libjpeg may divide the sides by and still leave `at_least`; else 1."""
    short_side = min(header.width, header.height)
    return next((d for d in (8, 4, 2) if at_least and -(-short_side // d) >= at_least), 1)


def _read_jpeg(data: bytes, header: JpegHeader, at_least: int | None) -> Tensor | None:
    """The fast path; None where Pillow has to look: CMYK, oddities, damage."""
    if header.components not in (1, 3):
        return None
    divide = _denominator(header, at_least)
    try:
        plain = header.components == 3 and header.adobe_transform in (None, 1)  # YCbCr
        if at_least is not None and plain:
            height, width = -(-header.height // divide), -(-header.width // divide)
            smallest = {} if divide == 1 else {"min_height": height, "min_width": width}
            pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=True, fastupsample=False, **smallest)
            image = torch.from_numpy(pixels).permute(2, 0, 1)
        elif divide > 1:
            return None  # torchvision cannot scale while it decodes; Pillow's draft mode can
        else:
            image = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except (RuntimeError, ValueError):
        return None
    return _upright(image, header.orientation)


def _upright(image: Tensor, orientation: int) -> Tensor:
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 2)
    mirrored = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}.get(orientation)
    return image.flip(mirrored) if mirrored else image


def _read_with_pillow(
    path: str | os.PathLike, data: bytes, max_pixels: int, header: JpegHeader | None, at_least: int | None
) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's bomb and EXIF warnings: size is checked below
            with _opened(data) as image:
                _check_pixels(path, *image.size, max_pixels)
                if header is not None and (divide := _denominator(header, at_least)) > 1:
                    image.draft(None, (max(header.width // divide, 1), max(header.height // divide, 1)))
                pixels = _rgb(_decoded(image, header))
    except UnreadableImage:
        raise
    except Exception as error:  # Pillow's plugins raise SyntaxError, struct.error, KeyError ... on damaged files
        reason = str(error) or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "not an image in a known format, or its header is damaged"
        raise UnreadableImage(path, reason) from error
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _opened(data: bytes) -> Image.Image:
    """Read the header only. Pillow's own limit is lifted while it does: ours is checked right after."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        return Image.open(io.BytesIO(data))
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _decoded(image: Image.Image, header: JpegHeader | None) -> Image.Image:
    image.load()
    if image.mode == "CMYK" and header is not None and header.adobe_transform is None:
        # Pillow takes every CMYK JPEG for an Adobe one, whose inks are stored inverted; others are not.
        image = Image.fromarray(255 - np.asarray(image), mode="CMYK")
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF says nothing about the pixels
        return image


def _rgb(image: Image.Image) -> np.ndarray:
    """Any mode of Pillow to uint8 [H, W, 3]."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = _grey_bytes(np.asarray(image), floating=image.mode == "F")
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA")).astype(np.uint16)
        colour, alpha = rgba[..., :3], rgba[..., 3:]
        return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _grey_bytes(values: np.ndarray, *, floating: bool) -> np.ndarray:
    """More than eight bits to eight, by the range of the type and not by clipping (Pillow's convert clips)."""
    if floating:
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 255:
            raise ValueError("floating-point pixels outside 0..1 and 0..255")
        return np.rint(values * (255.0 if values.max() <= 1 else 1.0)).astype(np.uint8)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("32-bit pixels of unknown range")
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
