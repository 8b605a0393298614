"""What a pass counts: images, skipped files, and seconds without those of the curve."""

import pytest
import torch
from fake_tokenizer import FakeTokenizer, batches_of, pictures

from imtok.common.build import build
from imtok.common.errors import UserError
from imtok.eval.evaluate import evaluate
from imtok.eval.metrics.chosen import ChosenMetrics
from imtok.eval.one_pass import OnePass
from imtok.eval.protocol import Protocol

MINI = Protocol(name="mini", metrics=("psnr", "l1"))
OPTIONS = {"protocol": MINI, "data_facts": {"name": "folder"}, "progress": False}


def passed(tokenizer, batches: list[dict], *, curve_images: int | None = 64) -> OnePass:
    seen = OnePass(
        tokenizer, batches, metrics=ChosenMetrics(MINI, device=torch.device("cpu")), curve_images=curve_images
    )
    with torch.inference_mode():
        seen.run(progress=False)
        seen.join()
    return seen


@pytest.mark.parametrize("curve_images", [0, 3, None])
def test_seconds_are_of_the_pass_without_the_curve(variable_node, monkeypatch, curve_images: int | None) -> None:
    now = [50.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    tokenizer = build(variable_node, key="tokenizer").eval()
    tokenizer.encoder.register_forward_hook(lambda *_: now.__setitem__(0, now[0] + 1))
    tokenizer.decoder.register_forward_hook(lambda *_: now.__setitem__(0, now[0] + 100))
    seen = passed(tokenizer, batches_of(pictures(6), 2), curve_images=curve_images)
    assert seen.seconds == 3 * 101.0
    assert (seen.curve is None) == (curve_images == 0)
    if seen.curve is not None:  # two at a time of 7 lengths of one or two images in each of three batches
        assert seen.curve.images == (curve_images or 6)
        assert seen.curve.seconds == 3 * 100.0 * {3: 4, 6: 7}[seen.curve.images]


def test_what_a_pass_has_seen() -> None:
    batches = batches_of(pictures(7), 2)
    batches[0]["skipped"], batches[2]["skipped"] = ["a"], ["b", "c"]
    del batches[1]["skipped"]
    seen = passed(FakeTokenizer(), batches)
    assert seen.skipped == ["a", "b", "c"] and seen.curve is None and len(seen.gallery.seen) == 7
    assert [entry[3] for entry in seen.gallery.seen] == [0, 0, 1, 1, 2, 2, 3]
    assert {name: len(shelf) for name, shelf in seen.pictures.items()} == {"best": 3, "median": 3, "worst": 3}
    values = [
        p.psnr for name in ("worst", "median", "best") for p in seen.pictures[name][:: -1 if name == "best" else 1]
    ]
    assert values == sorted(values)


def test_results_about_the_pass_itself(tmp_path) -> None:
    tokenizer, batches = FakeTokenizer(), batches_of(pictures(5))
    batches[0]["skipped"] = [f"file {i}" for i in range(1003)]
    facts = {"name": "mine", "parameters": -1}
    found = evaluate(tokenizer, batches, out_dir=tmp_path / "out", model_facts=facts, **OPTIONS)
    assert found["images_per_second"] == pytest.approx(5 / found["seconds"]) and found["seconds"] > 0
    assert (found["skipped"], len(found["skipped_images"])) == (1003, 1000)
    assert found["model"]["name"] == "mine" and found["model"]["parameters"] == -1, "what the caller knows wins"
    assert found["data"] == {"name": "folder"} and found["provenance"]["device"]
    with pytest.raises(AssertionError, match="a second time"):
        evaluate(tokenizer, iter(batches), out_dir=tmp_path, **OPTIONS)


def test_no_image_at_all_is_one_line(tmp_path) -> None:
    with pytest.raises(UserError, match=r"^data=folder: no readable image to evaluate \(0 skipped\)$"):
        evaluate(FakeTokenizer(), [], out_dir=tmp_path, **OPTIONS)
    assert not (tmp_path / "metrics.json").exists()


def test_a_curve_of_64_images_is_the_default(variable_node, tmp_path) -> None:
    tokenizer = build(variable_node, key="tokenizer").eval()
    with torch.inference_mode():
        found = evaluate(tokenizer, batches_of(pictures(66, 32), 33), out_dir=tmp_path, **OPTIONS)
    assert found["curve"]["images"] == 64
