"""The comparison counts the time that updates took, and writes between its marks only."""

import argparse
import json
from pathlib import Path

import pytest

from imtok.benchmarks.tables import quickstarts as compare


@pytest.fixture
def run(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("data: {batch_size: 8}\ntrainer: {accumulate: 2}\n")
    rows = ["update,train/total,train/images_per_second", "5,1.0,", "10,1.0,40", "20,0.9,80", "30,0.8,160"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    points = [{"tokens": 1, "bytes": 1.5, "psnr": 15.0}, {"tokens": 2, "bytes": 3.0, "psnr": 16.5}]
    codec = {"smallest": {"bytes": 300.0, "psnr": 18.0}, "points": [{"fit": 0}, {"fit": 7, "psnr": 17.25}]}
    metrics = {
        "model": {"parameters": 10**6, "tokens": 2, "bits_per_image": 24.0, "update": 35},
        "psnr": {"mean": 16.5},
        "psnr_mean_colour": 14.0,
        "ssim": {"mean": 0.5},
        "usage": 0.4,
        "num_images": 7,
        "image_size": [64, 64],
        "provenance": {"device": "cpu", "date": "today", "git": "abc", "packages": {"torch": "2"}},
        "curve": {"images": 7, "points": points, "codecs": {"WebP": codec}},
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    return compare.Run("quickstart_flow", tmp_path)


def test_seconds_are_those_of_the_updates(run) -> None:
    assert run.training_seconds == pytest.approx(80 / 40 + 80 / 80 + 80 / 160 + 40 / 160)
    # 80 images at 160/s: what lies behind the warm-up; so 10 seconds are 1600 images are 200 updates
    assert compare.updates_for(10, run) == 200


def test_the_table_stands_between_its_marks_and_says_how(run) -> None:
    options = argparse.Namespace(seconds=300.0, threads=2, set=["data.image_size=64"])
    text = compare.written([run], options)
    assert "300 s of training each, `data.image_size=64`, on cpu, 2 threads; 7 held-out images of 64x64" in text
    assert "| `quickstart_flow` | 1.00 M | 2 | 24 | 35 | 4 | 16.50 | +2.50 | 0.500 | 40% |" in text
    assert "| `quickstart_flow` | 15.00 | 16.50 |" in text
    assert "| WebP (smallest: 300 bytes, 18.00 dB) | - | 17.25 |" in text
    marks = [compare.BEGIN.format(place="gpu"), compare.END.format(place="gpu")]
    page = "\n".join(["before", *marks, "after"])
    filled = compare.with_table(page, text, "gpu")
    assert compare.with_table(filled, text, "gpu") == filled and text in filled
    assert filled.replace(text, "").replace("\n", "") == page.replace("\n", "")
    for place in ("cpu", "gpu"):
        assert text in compare.with_table(compare.PAGE.read_text(), text, place)
    with pytest.raises(SystemExit, match="no <!-- measured tpu"):
        compare.with_table(page, text, "tpu")
