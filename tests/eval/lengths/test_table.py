"""Words and numbers of the curve's table, charts and slider, from entries of metrics.json written by hand."""

import re
from xml.etree import ElementTree

import pytest
import torch
from fake_tokenizer import pictures

from imtok.eval.lengths.curve import GrowingPicture, falling
from imtok.eval.lengths.page import curve_context
from imtok.eval.lengths.table import caption, codec_lines, columns_of, markdown_curve, shown_bytes
from imtok.eval.protocol import Protocol

PROTOCOL = Protocol(extractor="randconv-64", metrics=("psnr", "lpips_vgg", "rfid"), lpips_vgg="random")


def curve(**changes) -> dict:
    points = [
        {"tokens": n, "bits": 12.0 * n, "bytes": 1.5 * n, "psnr": 10.0 + i, "lpips_vgg[random]": 0.5 - i / 10}
        for i, n in enumerate((1, 2, 1024))
    ]
    codec = {
        "encoder": "Pillow",
        "smallest": {"bytes": 750.0, "header_bytes": 300.4, "psnr": 9.876},
        "points": [
            {"budget_bytes": 1.5, "fit": 0},
            {"budget_bytes": 3.0, "fit": 999, "psnr": 5.0, "lpips_vgg[random]": 0.9},
            {"budget_bytes": 1536.0, "fit": 1000, "bytes": 1500.0, "psnr": 12.345, "lpips_vgg[random]": 0.1},
        ],
    }
    return {"images": 1000, "points": points, "codecs": {"JPEG": codec}, "codecs_skipped": {"AVIF": "absent"}} | changes


def results(**changes) -> dict:
    return {"protocol": PROTOCOL.as_dict(), "curve": curve(**changes)}


def test_bytes_have_three_digits_at_least() -> None:
    said = {1.5: "1.5", 0.375: "0.375", 9.994: "9.99", 10: "10", 10.4: "10", 1234.6: "1,235"}
    assert {value: shown_bytes(value) for value in said} == said


def test_columns_are_as_the_metrics_say() -> None:
    psnr, lpips = columns_of(results())
    assert (psnr.key, psnr.name, psnr.better, psnr.random, psnr.of_codecs) == (
        "psnr",
        "PSNR, dB",
        "higher",
        False,
        True,
    )
    assert (lpips.key, lpips.better, lpips.random, lpips.of_codecs) == ("lpips_vgg[random]", "lower", True, False)
    assert psnr.shown(12.345678) == "12.35"


def test_the_table_of_the_markdown_report() -> None:
    lines = markdown_curve(results())
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    heads, rule, *rows = table
    assert heads[:3] == ["tokens", "bytes", "PSNR, dB"] and "**[random weights]**" in heads[3]
    assert heads[4] == "JPEG: PSNR, dB" and rule == ["--:"] * 5 and len(heads) == 5
    assert [row[:3] for row in rows] == [["1", "1.5", "10.00"], ["2", "3", "11.00"], ["1,024", "1,536", "12.00"]]
    assert [row[4] for row in rows] == ["cannot be this small", "999 of 1000 fit", "12.35"] or rows[2][4] == "12.34"
    assert "- AVIF: left out, absent" in lines


def test_words_around_the_table() -> None:
    with_codecs, without = caption(curve()), caption(curve(codecs={}))
    assert (
        with_codecs.startswith("The first 1, 2, 4 ... tokens of each of 1,000 images.") and "equal bytes" in with_codecs
    )
    assert without == "The first 1, 2, 4 ... tokens of each of 1,000 images."
    said = "JPEG: smallest files 750 bytes on average, of them 300 headers, 9.88 dB. Pillow"
    assert codec_lines(curve()) == [said, "AVIF: left out, absent"]
    bare = curve(codecs={"JPEG": curve()["codecs"]["JPEG"] | {"smallest": {"bytes": 750.0, "header_bytes": 300.0}}})
    assert codec_lines(bare)[0] == said.replace(", 9.88 dB", "")


def test_more_tokens_that_harm_by_more_than_rounding() -> None:
    def points(*psnr: float) -> dict:
        return {"points": [{"tokens": 1000 * 2**i, "psnr": value} for i, value in enumerate(psnr)]}

    assert falling(points(10.0, 9.996, 9.992)) == [] and falling(points(10.0, 11.0)) == []
    [line] = falling(points(10.0, 9.99, 12.0, 11.0))
    assert "2,000 tokens (9.99 dB) show less than 1,000 (10.00 dB)" in line
    assert "8,000 tokens (11.00 dB) show less than 4,000 (12.00 dB)" in line


def tips(chart: str) -> list[str]:
    return [circle.find("title").text for circle in ElementTree.fromstring(chart).iter("circle")]


def test_charts_begin_a_codec_at_its_smallest_files() -> None:
    context = curve_context(results(), [], data_uri=str)
    (psnr, chart), (lpips, other) = context["charts"]
    assert (psnr.key, lpips.key) == ("psnr", "lpips_vgg[random]")
    assert tips(chart) == [
        "this tokenizer: 10 at 1 tokens",
        "this tokenizer: 11 at 2 tokens",
        "this tokenizer: 12 at 1,024 tokens",
        "JPEG: 9.876 at 500 tokens",  # 750 bytes at 12 bits a token
        "JPEG: 12.345 at 1,024 tokens",
    ]
    assert tips(other)[3:] == ["JPEG: 0.1 at 1,024 tokens"], "the point that 999 images reach is left out"
    assert "tokens (of 12 bits; 8 bits are a byte)" in chart
    assert context["names"] == ["this tokenizer", "JPEG"] and context["stops"] == [] and not context["pixelated"]
    assert [column.key for column in context["shared"]] == ["psnr"] and context["sizes"] == ["tokens", "bytes"]


def test_charts_without_bytes() -> None:
    bare = [{k: v for k, v in p.items() if k not in ("bits", "bytes")} for p in curve()["points"]]
    context = curve_context(results(points=bare, codecs={}), [], data_uri=str)
    assert "8 bits" not in context["charts"][0][1] and context["sizes"] == ["tokens"]
    assert context["table"][2][0][:2] == ["1,024", "12.00"]


@pytest.mark.parametrize(("size", "hard"), [(127, True), (128, False)])
def test_stops_of_the_slider(size: int, hard: bool) -> None:
    reference, *made = pictures(4, 8)
    wide = torch.zeros(3, 8, size, dtype=torch.uint8)
    grown = [
        GrowingPicture("a", wide, list(made), [1.234, 5.678, 9.1]),
        GrowingPicture("b", reference, made, [2, 3, 4]),
    ]
    context = curve_context(results(), grown, data_uri=lambda pixels: f"{pixels.sum()}")
    assert context["pixelated"] is hard
    assert context["given"] == [("a", "0"), ("b", f"{reference.sum()}")]
    assert [stop["size"] for stop in context["stops"]] == [
        "1 token, 1.5 bytes",
        "2 tokens, 3 bytes",
        "1,024 tokens, 1,536 bytes",
    ]
    assert [stop["tokens"] for stop in context["stops"]] == ["1", "2", "1,024"]
    assert [[psnr for _, psnr in stop["shown"]] for stop in context["stops"]] == [
        ["1.23", "2.00"], ["5.68", "3.00"], ["9.10", "4.00"]]  # fmt: skip
    assert all(re.fullmatch(r"\d+", uri) for stop in context["stops"] for uri, _ in stop["shown"])
    assert context["stops"][1]["shown"][0][0] == f"{made[1].sum()}"
