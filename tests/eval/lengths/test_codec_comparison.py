"""A codec's numbers at budgets that none, some and all of the images reach, by encoding every quality."""

import numpy as np
import pytest
import torch
from fake_tokenizer import FakeTokenizer, pictures

from imtok.eval.lengths.codec_comparison import CodecComparison
from imtok.eval.lengths.codecs import CODECS, Ladder, header_bytes
from imtok.eval.lengths.point import CurvePoint
from imtok.eval.metrics.chosen import ChosenMetrics
from imtok.eval.protocol import Protocol

JPEG = next(codec for codec in CODECS if codec.name == "JPEG")


@pytest.fixture
def metrics() -> ChosenMetrics:
    protocol = Protocol(extractor="randconv-64", metrics=("psnr", "l1", "rfid"))
    made = ChosenMetrics(protocol, device=torch.device("cpu"))
    made.start((32, 32), FakeTokenizer().index_layout())
    return made


def test_budgets_that_some_images_reach(metrics: ChosenMetrics) -> None:
    images = pictures(5)
    ladders = [Ladder(JPEG, image) for image in images]
    sizes = [[len(ladder.file(quality)) for quality in range(1, 101)] for ladder in ladders]
    least = [s[0] for s in sizes]
    budgets = [min(least) - 1, float(np.median(least)), max(least) + 200.5]
    comparison = CodecComparison(JPEG, budgets=budgets, metrics=metrics)
    keys = [f"{i}" for i in range(5)]
    comparison.update(images[:2], keys[:2])
    comparison.update(images[2:], keys[2:])
    found = comparison.result()
    assert comparison.name == "JPEG" and found["encoder"] == JPEG.describe()
    assert found["smallest"]["bytes"] == pytest.approx(np.mean(least))
    assert found["smallest"]["header_bytes"] == pytest.approx(np.mean([header_bytes(x.file(1)) for x in ladders]))
    assert "fid[randconv-64]" in " ".join(found["smallest"])
    for point, budget in zip(found["points"], budgets, strict=True):
        best = {i: max(q for q in range(1, 101) if s[q - 1] <= budget) for i, s in enumerate(sizes) if s[0] <= budget}
        assert (point["budget_bytes"], point["fit"]) == (budget, len(best))
        if not best:
            assert set(point) == {"budget_bytes", "fit"}
            continue
        assert point["bytes"] == pytest.approx(np.mean([sizes[i][q - 1] for i, q in best.items()]))
        assert point["quality"] == pytest.approx(np.mean(list(best.values())))
        errors = [(images[i].float() - ladders[i].decoded(q)).abs().mean() / 255 for i, q in best.items()]
        assert point["l1"] == pytest.approx(float(torch.stack(errors).mean()), rel=1e-4)
        assert any(key.startswith("fid") for key in point) == (len(best) == 5), (
            "sets of other images compare with nothing"
        )
    assert [point["fit"] for point in found["points"]] == [0, 3, 5]


def test_a_point_counts_and_sums(metrics: ChosenMetrics) -> None:
    point = CurvePoint(metrics, "bytes")
    images = pictures(3)
    floats = images / 127.5 - 1
    for rows in (slice(0, 2), slice(2, 3)):
        keys = [str(i) for i in range(3)][rows]
        point.measure(images[rows], images[rows], floats[rows], keys, bytes=2**40)
    assert (point.count(), point.count("bytes")) == (3, 2 * 2**40)
    assert set(point.numbers(of=4)) == {"psnr", "l1"} and len(point.numbers(of=3)) == 3
    one = CurvePoint(metrics)
    one.measure(images[:1], images[:1], floats[:1], ["0"])
    assert set(one.numbers(of=1)) == {"psnr", "l1"}, "a distance between sets needs two images"
