"""What report.html shows of pictures and codebooks, decoded from the page."""

import base64
import copy
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from fake_tokenizer import FakeTokenizer, batches_of, pictures
from PIL import Image

from imtok.eval.evaluate import evaluate
from imtok.eval.protocol import Protocol
from imtok.eval.report.gallery import Picture
from imtok.eval.report.html import html_report


class Images(HTMLParser):
    """(description, pixels) of every image, and whether the group around it is drawn with hard pixels."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, np.ndarray, bool]] = []
        self.hard = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        kinds = (given.get("class") or "").split()
        if "triple" in kinds:
            self.hard = "pixelated" in kinds
        if tag == "img":
            data = base64.b64decode(given["src"].removeprefix("data:image/png;base64,"))
            self.found.append((given["alt"], np.array(Image.open(io.BytesIO(data))), self.hard))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return evaluate(
        FakeTokenizer(),
        batches_of(pictures(4)),
        protocol=Protocol(metrics=("psnr", "codebook")),
        out_dir=tmp_path_factory.mktemp("out"),
        data_facts={"name": "folder"},
        progress=False,
    )


def test_pictures_are_shown_with_four_times_their_difference(results: dict) -> None:
    generator = torch.Generator().manual_seed(0)
    shelf = []
    for size in (127, 128):
        a, b = torch.randint(0, 256, (2, 3, 4, size), generator=generator, dtype=torch.uint8)
        shelf.append(Picture(f"{size}.png", 12.3456, a, b))
    html = html_report(results, {"best": shelf}, run_dir=None)
    shown = Images(html).found
    assert [what for what, *_ in shown] == ["input", "reconstruction", "difference"] * 2
    assert [hard for *_, hard in shown] == [True] * 3 + [False] * 3, "small images are enlarged with hard pixels"
    for picture, start in zip(shelf, (0, 3), strict=True):
        a, b = (x.permute(1, 2, 0).numpy() for x in (picture.reference, picture.reconstruction))
        difference = np.minimum(np.abs(a.astype(int) - b.astype(int)) * 4, 255)
        for (_, pixels, _), expected in zip(shown[start : start + 3], (a, b, difference), strict=True):
            assert np.array_equal(pixels, expected)
    assert "× 4" in html and html.count("12.35") == 2


def test_at_most_eight_codebooks_are_drawn(results: dict) -> None:
    many = copy.deepcopy(results)
    book = many["codebooks"]["main"]
    many["codebooks"] = {f"book{i}": book for i in range(9)}
    html = html_report(many, {}, run_dir=None)
    drawn = re.findall(r"Code use, (book\d)", html)
    assert drawn == [f"book{i}" for i in range(8)]
    level = book["tokens"] / book["entries"]
    assert level > 0 and html.count("equal use") == 8


def test_a_report_without_psnr_and_codes(results: dict) -> None:
    bare = {k: v for k, v in results.items() if k not in ("psnr", "codebooks")}
    html = html_report(bare, {}, run_dir=None)
    assert "Distributions" not in html and "The training run" not in html and "Quality against tokens" not in html
    assert "Distributions" in html_report(results, {}, run_dir=None)


def test_skipped_images_beyond_fifty_are_counted(results: dict) -> None:
    html = html_report(results | {"skipped": 1051, "skipped_images": [f"s{i}" for i in range(1000)]}, {}, run_dir=None)
    assert html.count("<code>s") == 50 and "1,001 more" in html
