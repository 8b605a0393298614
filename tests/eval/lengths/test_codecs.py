"""Files that are no larger than asked, headers that are where the formats put them."""

import io

import numpy as np
import pytest
import torch
from fake_tokenizer import pictures
from PIL import Image

from imtok.eval.lengths.codecs import CODECS, Codec, Ladder, header_bytes

AVAILABLE = [codec for codec in CODECS if codec.available]


@pytest.mark.parametrize("codec", AVAILABLE, ids=lambda codec: codec.name)
def test_the_file_is_the_nearest_below_the_budget(codec: Codec) -> None:
    pixels = pictures(4, 32)[2]
    picture = Ladder(codec, pixels).picture
    sizes = {q: len(codec.encode(picture, q)) for q in range(codec.lowest, 101)}
    for budget in (200, 500, 1000, 10**6):
        ladder = Ladder(codec, pixels)
        quality = ladder.nearest_below(budget)
        if sizes[codec.lowest] > budget:
            assert quality is None
            continue
        assert sizes[quality] <= budget and (quality == 100 or sizes[quality + 1] > budget)
        assert len(ladder.files) <= 8, "bisection, not a search of all qualities"
        expected = Image.open(io.BytesIO(codec.encode(picture, quality))).convert("RGB")
        assert torch.equal(ladder.decoded(quality), torch.from_numpy(np.array(expected)).permute(2, 0, 1))


def test_no_picture_is_as_small_as_a_few_tokens() -> None:
    for codec in AVAILABLE:
        assert Ladder(codec, pictures(1, 48)[0]).nearest_below(48) is None


@pytest.mark.parametrize("codec", AVAILABLE, ids=lambda codec: codec.name)
def test_headers_do_not_grow_with_the_picture(codec: Codec) -> None:
    """All that a finer quality adds is picture: headers stay, but for JPEG's tables, which follow the content."""
    ladder = Ladder(codec, pictures(4, 48)[3])
    small, large = ladder.file(codec.lowest), ladder.file(90)
    assert 0 < header_bytes(small) < len(small) < len(large)
    assert abs(header_bytes(large) - header_bytes(small)) < (0.2 * len(large) if codec.name == "JPEG" else 40)


def test_headers_of_a_jpeg_end_at_its_scan() -> None:
    file = next(c for c in CODECS if c.name == "JPEG").encode(Image.new("RGB", (32, 32)), 50)
    scan = file.rindex(b"\xff\xda")
    assert header_bytes(file) == scan + 2 + int.from_bytes(file[scan + 2 : scan + 4], "big") + 2


def test_a_codec_that_pillow_lacks_is_not_available() -> None:
    assert not Codec("Nonsense", 0, "nonsense").available
    assert "unknown version" in Codec("Nonsense", 0, "nonsense").describe()


@pytest.mark.parametrize("codec", AVAILABLE, ids=lambda codec: codec.name)
def test_a_file_of_exactly_the_budget_fits(codec: Codec) -> None:
    ladder = Ladder(codec, pictures(4, 32)[2])
    smallest = len(ladder.file(codec.lowest))
    assert ladder.nearest_below(smallest) is not None and ladder.nearest_below(smallest - 1) is None
    size = len(ladder.file(70))
    found = ladder.nearest_below(size)
    assert found >= 70 and len(ladder.file(found)) == size


def chunk(name: bytes, size: int) -> bytes:
    return name + size.to_bytes(4, "little") + b"x" * (size + size % 2)


def box(name: bytes, size: int, *, said: int | None = None) -> bytes:
    return (size + 8 if said is None else said).to_bytes(4, "big") + name + b"x" * size


def test_headers_byte_by_byte() -> None:
    """Files put together here, so that each part's size is known."""
    segments = b"".join(
        b"\xff" + kind + (n + 2).to_bytes(2, "big") + b"x" * n for kind, n in ((b"\xe0", 14), (b"\xdb", 300))
    )
    start = b"\xff\xda" + (10).to_bytes(2, "big") + b"x" * 8
    jpeg = b"\xff\xd8" + segments + start + b"picture" + b"\xff\xd9"
    assert header_bytes(jpeg) == len(jpeg) - len(b"picture")
    for name in (b"VP8 ", b"VP8L"):
        for extra in (b"", chunk(b"VP8X", 10) + chunk(b"ICCP", 5) + chunk(b"ALPH", 300)):
            webp = b"RIFF" + b"size" + b"WEBP" + extra + name + (260).to_bytes(4, "little") + b"x" * 260
            assert header_bytes(webp) == len(webp) - 260
    avif = box(b"ftyp", 20) + box(b"mdat", 300) + box(b"meta", 70) + box(b"mdat", 9)
    assert header_bytes(avif) == len(avif) - 300 - 9
    assert header_bytes(box(b"ftyp", 20) + box(b"mdat", 40, said=0)) == 28 + 8, "size 0: up to the end of the file"
    assert header_bytes(box(b"free", 0, said=3) + box(b"mdat", 5)) == 16, "a box cannot be shorter than its own head"


def test_published_settings_of_the_encoders() -> None:
    """Numbers of a comparison depend on them: they stand in its report."""
    assert {c.name: (c.lowest, dict(c.options)) for c in CODECS} == {
        "JPEG": (1, {"optimize": True}),
        "WebP": (0, {"method": 6}),
        "AVIF": (0, {"speed": 6, "max_threads": 1}),
    }
    said = next(c for c in CODECS if c.name == "AVIF").describe()
    assert "speed=6" in said and "max_threads" not in said and said.endswith("4:2:0")
