"""Header of a JPEG file, read without decoding pixels: size, components, orientation, Adobe marker."""

import struct
from dataclasses import dataclass


@dataclass(frozen=True)
class JpegHeader:
    width: int
    height: int
    components: int  # 1 grey, 3 colour, 4 CMYK or YCCK
    orientation: int  # EXIF 1..8
    adobe_transform: int | None  # of the Adobe marker; None without one


def read_jpeg_header(data: bytes | memoryview) -> JpegHeader | None:
    """None for what is not a JPEG or is too odd for the fast path (Pillow then has the last word)."""
    if bytes(data[:3]) != b"\xff\xd8\xff":
        return None
    position, end = 2, len(data)
    orientation, adobe = 1, None
    while position + 4 <= end:
        if data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:  # markers without a length
            position += 2
            continue
        length = (data[position + 2] << 8) | data[position + 3]
        body = data[position + 4 : position + 2 + length]
        if marker == 0xE1 and bytes(body[:6]) == b"Exif\0\0":
            orientation = _orientation(bytes(body[6:]))
        elif marker == 0xEE and bytes(body[:5]) == b"Adobe" and len(body) >= 12:
            adobe = body[11]
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a frame header: nothing needed follows
            if len(body) < 6:
                return None
            precision, height, width, components = struct.unpack_from(">BHHB", body)
            if precision != 8 or not height or not width:
                return None
            return JpegHeader(width, height, components, orientation, adobe)
        elif marker in (0xDA, 0xD9):
            return None
        position += 2 + length
    return None


def _orientation(tiff: bytes) -> int:
    """EXIF tag 0x0112 of the first directory; 1 where it is absent or damaged."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, start)
        for entry in range(entries):
            tag, kind, _ = struct.unpack_from(order + "HHI", tiff, start + 2 + 12 * entry)
            if tag == 0x0112:
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), tiff, start + 10 + 12 * entry)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1
