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
