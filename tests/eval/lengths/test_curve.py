"""The curve over tokens holds the main pass's own metrics, and says where a codec cannot follow."""

import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_tokenizer import FakeTokenizer, batches_of, pictures
from pages import Balanced

from imtok.common.build import build
from imtok.common.pixels import to_model_range, to_uint8
from imtok.common.types import IndexSegment
from imtok.eval.evaluate import evaluate
from imtok.eval.lengths import codecs
from imtok.eval.lengths.curve import LengthCurve, falling, own_share
from imtok.eval.metrics.chosen import ChosenMetrics
from imtok.eval.protocol import Protocol
from imtok.eval.reconstruction import Reconstruction, Shapes
from imtok.tokenizers.tokenizer import Tokenizer

MINI = Protocol(name="mini", extractor="randconv-64", metrics=("psnr", "ssim", "l1", "rfid", "codebook"))
FID = "fid[randconv-64]@13"


@pytest.fixture(scope="module")
def tokenizer(variable_node) -> Tokenizer:
    return build(variable_node, key="tokenizer").eval()


def run(tokenizer, images, out: Path, **options) -> dict:
    batches = batches_of(images)
    given = {"protocol": MINI, "data_facts": {"name": "folder"}, "progress": False, "out_dir": out} | options
    return evaluate(tokenizer, batches, **given)


@pytest.fixture(scope="module")
def written(tokenizer, tmp_path_factory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("curve")
    return run(tokenizer, pictures(13), out), out


class Shortened(torch.nn.Module):
    """What the main pass alone would measure at one length."""

    def __init__(self, tokenizer: Tokenizer, length: int) -> None:
        super().__init__()
        self.inner, self.length = tokenizer, length
        self.image_size, self.num_tokens = tokenizer.image_size, length
        self.codebook_size, self.bits_per_image = tokenizer.codebook_size, 24.0 * length
        self.index_layout, self.decode = tokenizer.index_layout, tokenizer.decode

    def quantize(self, images):
        quantized = self.inner.quantize(images)
        return self.inner.variable().keep(quantized, [self.length] * len(images))


@pytest.mark.parametrize("row", [0, 3, 6])
def test_every_point_is_an_evaluation_at_that_length(written, tokenizer, tmp_path, row) -> None:
    point = written[0]["curve"]["points"][row]
    alone = run(Shortened(tokenizer, point["tokens"]), pictures(13), tmp_path, protocol=_without_codebook())
    assert point["tokens"] == 2**row and point["bytes"] == 3 * 2**row
    assert point["psnr"] == pytest.approx(alone["psnr"]["mean"], abs=1e-4)
    assert point["ssim"] == pytest.approx(alone["ssim"]["mean"], abs=1e-5)
    assert point["l1"] == pytest.approx(alone["l1"], abs=1e-6)
    assert point[FID] == pytest.approx(alone[FID]["value"], abs=1e-5)


def _without_codebook() -> Protocol:
    return Protocol(name="mini", extractor="randconv-64", metrics=("psnr", "ssim", "l1", "rfid"))


def test_the_last_point_is_the_main_result_and_quality_grows(written) -> None:
    results, _ = written
    points = results["curve"]["points"]
    assert [p["tokens"] for p in points] == [1, 2, 4, 8, 16, 32, 64] and results["curve"]["images"] == 13
    assert points[-1]["psnr"] == pytest.approx(results["psnr"]["mean"], abs=1e-4)
    assert all(a["psnr"] < b["psnr"] for a, b in pairwise(points))
    assert not any("do not always help" in w for w in results["warnings"])


def test_codecs_at_equal_bytes(written) -> None:
    for name, codec in written[0]["curve"]["codecs"].items():
        least = codec["smallest"]
        for point in codec["points"]:
            assert (point["fit"] == 0) == ("bytes" not in point)
            if point["fit"]:
                assert point["bytes"] <= point["budget_bytes"]
        assert codec["points"][0]["fit"] == 0, f"{name} cannot be three bytes small"
        assert 0 < least["header_bytes"] < least["bytes"] and least["psnr"] > 0
        assert "Pillow" in codec["encoder"]


def test_codec_numbers_are_those_of_its_files(tmp_path, variable_node) -> None:
    node = variable_node | {"image_size": 64, "decoder": variable_node["decoder"] | {"image_size": 64}}
    node["encoder"] = variable_node["encoder"] | {"num_tokens": 600}
    images = pictures(3, 64)
    curve = run(build(node, key="tokenizer").eval(), images, tmp_path)["curve"]
    last = curve["codecs"]["JPEG"]["points"][-1]
    assert last["fit"] == 3 and last["budget_bytes"] == 1800
    jpeg = next(c for c in codecs.CODECS if c.name == "JPEG")
    ladders = [codecs.Ladder(jpeg, image) for image in images]
    found = [(ladder, ladder.nearest_below(1800)) for ladder in ladders]
    assert last["bytes"] == np.mean([len(ladder.file(q)) for ladder, q in found])
    errors = [
        (image.double() - ladder.decoded(q)).square().mean() for image, (ladder, q) in zip(images, found, strict=True)
    ]
    assert last["psnr"] == pytest.approx(np.mean([float(10 * torch.log10(255**2 / e)) for e in errors]), abs=1e-6)


class Section(Balanced):
    """What stands below the heading `Quality against tokens`: radio buttons, labels, descriptions of images, charts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.choices: list[dict[str, str | None]] = []
        self.labels: dict[str, str] = {}
        self.images: list[str] = []
        self.charts = 0
        self.label_of = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        assert tag not in ("script", "link", "iframe")
        assert all(value.startswith("data:") for key, value in attrs if key in ("src", "href"))
        if tag == "input":
            self.choices.append(given)
            return
        self.label_of = given["for"] if tag == "label" else ""
        self.images += [given["alt"]] if tag == "img" else []
        self.charts += tag == "svg"
        super().handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        if self.label_of and data.strip():
            self.labels[self.label_of] = data.strip()


def test_the_page_shows_table_charts_and_a_slider_without_script(written) -> None:
    results, out = written
    html, markdown = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert Section(html).open == []
    section = "<h2>" + html.split("Quality against tokens")[1].partition("</section>")[0]
    seen, points = Section(section), results["curve"]["points"]
    assert {choice["type"] for choice in seen.choices} == {"radio"} and len({c["name"] for c in seen.choices}) == 1
    assert [seen.labels[choice["id"]] for choice in seen.choices] == [str(p["tokens"]) for p in points]
    assert ["checked" in choice for choice in seen.choices] == [p is points[-1] for p in points]
    for choice in seen.choices:  # each stop shows every image at its length
        assert seen.images.count(choice["aria-label"]) == seen.images.count("input") > 0
    assert seen.charts == len(set(points[0]) - {"tokens", "bits", "bytes"})  # one a metric
    table = markdown.split("## Quality against tokens")[1].split("## ")[0]
    for point in results["curve"]["points"]:
        assert f"| {point['psnr']:.2f} |" in table and f">{point['psnr']:.2f}</td>" in section
    assert "cannot be this small" in table and "cannot be this small" in section
    assert "headers" in table and "**[random weights]**" in table
    json.dumps(results["curve"], allow_nan=False)


def curve_of(tokenizer, batches: list[dict], *, wanted: int, available: int) -> LengthCurve:
    metrics = ChosenMetrics(MINI, device=torch.device("cpu"))
    shapes = Shapes((32, 32), tokenizer.index_layout(), 64)
    metrics.start(shapes.image_size, shapes.layout)
    curve = LengthCurve(metrics, tokenizer.token_dropout, shapes=shapes, wanted=wanted, available=available)
    reconstruct = Reconstruction(tokenizer, device=torch.device("cpu"), rounding="round")
    with torch.inference_mode():
        for batch in batches:
            curve.update(reconstruct(batch), batch["key"], decode=partial(reconstruct.decode, batch))
    return curve


def test_growing_pictures_are_the_reconstructions(tokenizer) -> None:
    curve = curve_of(tokenizer, batches_of(pictures(6)), wanted=6, available=6)
    assert [p.key for p in curve.pictures] == [f"picture_{i:03d}.png" for i in (0, 2, 4)]
    for picture in curve.pictures:
        image = to_model_range(picture.reference[None])
        for length, shown in zip(curve.lengths, picture.reconstructions, strict=True):
            assert torch.equal(shown, to_uint8(tokenizer.reconstruct(image, num_tokens=length))[0])


def test_pictures_are_spread_evenly_and_no_more_than_wanted(tokenizer, tmp_path) -> None:
    curve = curve_of(tokenizer, [], wanted=5, available=23)
    chosen = [at + row for at in range(0, 23, 4) for row in curve.rows(min(4, 23 - at))]
    assert len(chosen) == 5 and set(np.diff(chosen)) <= {4, 5}
    assert run(tokenizer, pictures(13), tmp_path, curve_images=5)["curve"]["images"] == 5
    assert "curve" not in run(tokenizer, pictures(5), tmp_path, curve_images=0)
    assert [own_share(7, 100, rank, 3) for rank in range(3)] == [3, 2, 2] and own_share(None, 9, 0, 1) == 9


def test_a_fixed_length_has_no_curve(tmp_path) -> None:
    assert "curve" not in run(FakeTokenizer(), pictures(3), tmp_path)
    assert "Quality against tokens" not in (tmp_path / "report.html").read_text()


def test_a_missing_codec_is_a_line(tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("imtok.eval.lengths.codecs.Codec.available", property(lambda codec: codec.name != "AVIF"))
    curve = run(tokenizer, pictures(3), tmp_path)["curve"]
    assert set(curve["codecs"]) == {"JPEG", "WebP"} and "cannot write AVIF" in curve["codecs_skipped"]["AVIF"]
    assert "AVIF: left out" in (tmp_path / "report.md").read_text()


def test_more_tokens_that_harm_are_a_warning(variable_node, tmp_path) -> None:
    node = variable_node | {"decoder": variable_node["decoder"] | {"harm": 0.5}}
    results = run(build(node, key="tokenizer").eval(), pictures(4), tmp_path)
    assert any("64 tokens" in w and "do not always help" in w for w in results["warnings"])
    assert falling({"points": [{"tokens": 1, "l1": 2.0}, {"tokens": 2, "l1": 3.0}]}) == []


def test_a_continuous_bottleneck_has_a_curve_without_bytes(variable_node, tmp_path) -> None:
    node = variable_node | {"quantizer": {"_target_": "imtok.tokenizers.quantizers.identity.Identity"}}
    curve = run(build(node, key="tokenizer").eval(), pictures(3), tmp_path)["curve"]
    assert curve["codecs"] == {} and "bytes" not in curve["points"][0] and len(curve["points"]) == 7


def test_a_decoder_that_samples_says_how(written) -> None:
    results, out = written
    assert results["model"]["decoder_facts"] == {"basis": "cosines", "harm": 0.0}
    assert "decoder: basis" in (out / "report.html").read_text()
    assert "- decoder: basis: cosines" in (out / "report.md").read_text()


def test_as_many_images_are_decoded_together_as_the_batch_had(tokenizer) -> None:
    decoder = tokenizer.decoder
    before = len(decoder.decoded)
    curve = curve_of(tokenizer, batches_of(pictures(6)), wanted=3, available=6)
    # Batches of 4 and 2 hold 2 and 1 images of the curve, each at 7 lengths; the pass itself decodes 4 and 2.
    assert decoder.decoded[before:] == [4, 4, 4, 4, 2, 2, 2, 2, 2, 1]
    assert curve.images == 3 and curve.result()["images"] == 3


def test_pictures_of_few_and_many_images(tokenizer) -> None:
    for wanted, shown in ((1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (4, [0, 1, 2]), (8, [0, 2, 4]), (9, [0, 3, 6])):
        curve = curve_of(tokenizer, batches_of(pictures(wanted), 2), wanted=wanted, available=wanted)
        assert [p.key for p in curve.pictures] == [f"picture_{i:03d}.png" for i in shown]
    for picture in curve.pictures:
        errors = [(picture.reference.double() - at).square().mean() for at in picture.reconstructions]
        assert picture.psnr == pytest.approx([float(10 * torch.log10(255**2 / e)) for e in errors], abs=1e-4)


def test_bits_of_a_prefix_of_several_vocabularies(tokenizer) -> None:
    metrics = ChosenMetrics(MINI, device=torch.device("cpu"))
    layout = (IndexSegment("a", 3, (8, 4)), IndexSegment("b", 6, (1000,)))
    metrics.start((32, 32), layout)
    shapes = Shapes((32, 32), layout, 9)
    curve = LengthCurve(metrics, tokenizer.token_dropout, shapes=shapes, wanted=None, available=4)
    assert curve.lengths == [1, 2, 4, 8, 9]
    thousand = np.log2(1000)
    assert curve.bits == pytest.approx([5, 10, 15 + thousand, 15 + 5 * thousand, 15 + 6 * thousand])
    assert curve.codecs[0].budgets == pytest.approx([b / 8 for b in curve.bits])


@pytest.mark.parametrize("available", [10, None])
def test_more_images_than_were_announced(tokenizer, available: int | None) -> None:
    curve = curve_of(tokenizer, [], wanted=5, available=available)
    chosen = [at + row for at in range(0, 16, 4) for row in curve.rows(4)]
    assert chosen == ([0, 2, 4, 6, 8] if available else [0, 1, 2, 3, 4])
    everything = curve_of(tokenizer, [], wanted=None, available=available)
    assert [row for _ in range(2) for row in everything.rows(3)] == [0, 1, 2, 0, 1, 2]
    assert curve_of(tokenizer, [], wanted=50, available=4).rows(6) == [0, 1, 2, 3]
    assert own_share(None, None, 0, 2) > 10**15 and [own_share(4, 9, rank, 4) for rank in range(4)] == [1] * 4


def test_pictures_and_seconds_of_processes(tokenizer, monkeypatch) -> None:
    first, second = (curve_of(tokenizer, batches_of(pictures(2)), wanted=2, available=2) for _ in range(2))
    assert first.seconds > 0
    first.seconds, second.seconds = 2.0, 3.0
    shares = [(c.pictures, c.seconds) for c in (first, second)]
    monkeypatch.setattr("imtok.eval.lengths.curve.gather_objects", lambda own: shares)
    first.join()
    assert first.pictures == [*shares[0][0], shares[1][0][0]] and first.seconds == 3.0


def test_seconds_are_those_of_the_curve_alone(tokenizer, monkeypatch) -> None:
    ticks = iter(range(0, 10**6, 10))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    curve = curve_of(tokenizer, batches_of(pictures(6), 2), wanted=6, available=6)
    assert curve.seconds == 30.0  # three batches, the clock read before and after each
    assert curve_of(tokenizer, batches_of(pictures(6), 2), wanted=0, available=6).result() is None
