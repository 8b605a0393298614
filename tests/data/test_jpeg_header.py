"""What a JPEG says of itself, from files written byte by byte."""

import struct

import pytest

from imtok.data.jpeg_header import JpegHeader, read_jpeg_header

SOI = b"\xff\xd8"


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def frame(marker: int = 0xC0, *, bits: int = 8, height: int = 500, width: int = 700, components: int = 3) -> bytes:
    return segment(marker, struct.pack(">BHHB", bits, height, width, components) + b"\1\x11\0" * components)


def exif(value: int, *, order: str = "<", kind: int = 3, before: int = 0) -> bytes:
    """Orientation behind `before` other entries."""
    tiff = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", before + 1)
    tiff += b"".join(struct.pack(order + "HHII", 0x0100 + n, 4, 1, 9) for n in range(before))
    value_field = struct.pack(order + "I", value) if kind == 4 else struct.pack(order + "HH", value, 0)
    tiff += struct.pack(order + "HHI", 0x0112, kind, 1) + value_field
    return segment(0xE1, b"Exif\0\0" + tiff)


def adobe(transform: int) -> bytes:
    return segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))


@pytest.mark.parametrize("marker", [m for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC)])
def test_every_kind_of_frame(marker: int) -> None:
    assert read_jpeg_header(SOI + frame(marker)) == JpegHeader(700, 500, 3, 1, None)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize(("value", "said"), [(0, 1), (1, 1), (6, 6), (8, 8), (9, 1)])
def test_orientation(order: str, kind: int, value: int, said: int) -> None:
    for before in (0, 1, 3):
        header = read_jpeg_header(SOI + exif(value, order=order, kind=kind, before=before) + frame())
        assert header is not None and header.orientation == said


@pytest.mark.parametrize("damage", [b"", b"II", b"XX*\0\x08\0\0\0", b"II*\0\xff\0\0\0", b"II*\0\x08\0\0\0\x05\0\1\1"])
def test_a_damaged_orientation_is_none(damage: bytes) -> None:
    header = read_jpeg_header(SOI + segment(0xE1, b"Exif\0\0" + damage) + frame())
    assert header == JpegHeader(700, 500, 3, 1, None)


def test_what_may_stand_before_the_frame() -> None:
    tables = segment(0xC4, b"x" * 40) + segment(0xDB, b"y" * 70) + segment(0xC8, b"1234567") + segment(0xCC, b"z" * 9)
    other = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0") + segment(0xEE, b"Adobe\0") + segment(0xFE, b"")
    odd = b"\xff\xff\xff" + segment(0xFE, b"filled")[1:] + b"\xff\x01" + b"\xff\xd0" + b"\xff\xd8"
    found = read_jpeg_header(SOI + adobe(2) + tables + other + odd + frame(0xC2, components=4))
    assert found == JpegHeader(700, 500, 4, 1, 2)
    assert read_jpeg_header(memoryview(SOI + adobe(0) + frame(components=1))) == JpegHeader(700, 500, 1, 1, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"\x89PNG" + frame(),
        SOI + b"x" + frame(),
        SOI + frame(bits=12),
        SOI + frame(height=0),
        SOI + frame(width=0),
        SOI + segment(0xC0, b"\x08\1\1\1\1"),
        SOI + segment(0xDA, b"\0\0") + frame(),
        SOI + b"\xff\xd9\0\2" + frame(),
        SOI + segment(0xFE, b"comment"),
        SOI + frame()[:8],
    ],
)
def test_what_is_too_odd_is_left_to_pillow(data: bytes) -> None:
    assert read_jpeg_header(data) is None


def test_the_shortest_frame_that_says_enough() -> None:
    assert read_jpeg_header(SOI + frame(components=0)) == JpegHeader(700, 500, 0, 1, None)
    assert read_jpeg_header(SOI + frame(height=1, width=1, components=1)) == JpegHeader(1, 1, 1, 1, None)
