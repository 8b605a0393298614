"""The whole pass: what is written, what is refused, and that no number is called what it is not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_tokenizer import FakeTokenizer, batches_of, pictures
from skimage.metrics import peak_signal_noise_ratio

from imtok.common.errors import UserError
from imtok.common.pixels import to_model_range, to_pixels
from imtok.eval.evaluate import evaluate
from imtok.eval.protocol import Protocol
from imtok.eval.reconstruction import Reconstructed
from imtok.eval.report.gallery import Gallery, look_again
from imtok.losses.lpips import LPIPSNet

MINI = Protocol(name="mini", extractor="randconv-64", metrics=("psnr", "ssim", "l1", "rfid", "codebook"))
FACTS = {"name": "folder", "val_crop": "ADM centre crop (box halving, bicubic)"}


def as_given(batch: dict, rows: list[int]) -> Reconstructed:
    images = batch["image"][rows]
    return Reconstructed(images, images, images, None)


def run(out: Path, images: torch.Tensor | None = None, *, tokenizer: FakeTokenizer | None = None, **options) -> dict:
    images = pictures(13) if images is None else images
    options = {"protocol": MINI, "data_facts": FACTS, "progress": False} | options
    return evaluate(tokenizer or FakeTokenizer(), batches_of(images), out_dir=out, **options)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("evaluation")
    return run(out, model_facts={"name": "a <model>"}), out


def test_metrics_json_is_what_is_returned_and_says_under_which_protocol(written: tuple[dict, Path]) -> None:
    results, out = written
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(results))
    assert results["protocol"]["label"] == MINI.label and results["num_images"] == 13
    assert not list(out.glob("*.part"))


def test_pixel_numbers_are_those_of_the_rounded_pictures(written: tuple[dict, Path]) -> None:
    results, _ = written
    images, tokenizer = pictures(13), FakeTokenizer()
    shown = to_pixels(tokenizer.decode(tokenizer.quantize(to_model_range(images)).codes).detach())
    expected = [
        peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=255) for a, b in zip(images, shown, strict=True)
    ]
    assert results["psnr"]["mean"] == pytest.approx(np.mean(expected), rel=1e-9)
    assert results["usage"] == results["codebooks"]["main"]["used"] / 16
    assert results["bits_per_image"] == 64 and results["rate"]["bits_per_pixel"] == 64 / 32**2


def test_best_median_and_worst_really_are(written: tuple[dict, Path]) -> None:
    images = pictures(13)
    tokenizer = FakeTokenizer()
    shown = to_pixels(tokenizer.decode(tokenizer.quantize(to_model_range(images)).codes).detach())
    values = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=255) for a, b in zip(images, shown, strict=True)]
    order = np.argsort(values)
    gallery = Gallery()
    for number, start in enumerate(range(0, 13, 4)):
        rows = slice(start, start + 4)
        keys = batches_of(images)[number]["key"]
        gallery.update(np.array(values[rows]), keys, images[rows], shown[rows], number)
    middle = look_again(batches_of(images), gallery.median(), reconstruct=as_given)
    for shelf, expected in ((gallery.worst, order[:3]), (gallery.best, order[::-1][:3]), (middle, order[5:8])):
        assert [p.key for p in shelf] == [f"picture_{i:03d}.png" for i in expected]
        assert all(torch.equal(p.reference, images[i]) for p, i in zip(shelf, expected, strict=True))
    _, out = written
    page = (out / "report.html").read_text()
    shelves = [part.split("</section>")[0] for part in page.split('class="shelf"')[1:]]
    for shelf, expected in zip(shelves, (order[::-1][:3], order[5:8], order[:3]), strict=True):
        assert all(f"picture_{i:03d}.png" in shelf for i in expected) and shelf.count("<figure>") == 3


def test_median_pictures_are_found_when_the_loader_counts_batches_differently() -> None:
    images = pictures(6)
    batches = batches_of(images, 2)
    wanted = [(20.0, "picture_004.png", 0, 1)]  # really in batch 2
    found = look_again(batches, wanted, reconstruct=as_given)
    assert torch.equal(found[0].reference, images[4])


def test_random_weights_leave_marks_and_no_plain_number(tmp_path: Path) -> None:
    protocol = Protocol(
        inception="random", lpips_vgg="random", metrics=("psnr", "lpips_vgg", "rfid", "inception_score")
    )
    results = run(tmp_path, pictures(3), protocol=protocol)
    assert not {"rfid", "inception_score", "lpips_vgg"} & set(results)
    assert {"fid[random-inception]@3", "inception_score[random-inception]", "lpips_vgg[random]"} <= set(results)
    assert results["random_weights"] == ["lpips_vgg[random]", "random-inception"]
    for name in ("report.html", "report.md"):
        text = (tmp_path / name).read_text()
        assert text.count("random weights") >= 3 and "rFID@3" not in text


def test_missing_weights_leave_a_reason_and_all_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = tmp_path / "vgg.pth"
    torch.save(LPIPSNet(net="vgg", weights="random").features.state_dict(), file)
    metrics = ("psnr", "lpips_vgg", "lpips_alex", "rfid", "inception_score")
    results = run(tmp_path, pictures(5), protocol=Protocol(lpips_vgg=str(file), metrics=metrics))
    assert "rfid" not in results and "lpips_alex" not in results
    [marked] = [key for key in results if key.startswith("lpips_vgg[")]
    assert results[marked] > 0 and results["psnr"]["mean"] > 0
    assert set(results["not_computed"]) == {"rfid", "inception_score", "lpips_alex"}
    assert "protocol.inception=PATH" in results["not_computed"]["rfid"]
    assert "rfid, inception_score: left out, " in capsys.readouterr().out
    for name in ("report.html", "report.md"):
        assert "protocol.inception=PATH" in (tmp_path / name).read_text()


def test_a_required_metric_is_an_error_after_the_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="require=rfid"):
        run(tmp_path, require=["rfid"])  # randconv: computed, but not called rFID
    assert (tmp_path / "report.html").is_file() and (tmp_path / "metrics.json").is_file()
    with pytest.raises(UserError, match="require=lpips_vgg: not in"):
        run(tmp_path, require=["lpips_vgg"])
    run(tmp_path, require=["psnr", "codebook"])


def test_bytes_and_floats_give_the_same_numbers(tmp_path: Path) -> None:
    images = pictures(6)
    batches = [b | {"image": to_model_range(b["image"])} for b in batches_of(images)]
    options = {"protocol": MINI, "data_facts": FACTS, "progress": False, "out_dir": tmp_path}
    floats, given = evaluate(FakeTokenizer(), batches, **options), run(tmp_path, images)
    for key in ("psnr", "ssim", "l1", "codebooks", "fid[randconv-64]@6"):
        assert floats[key] == given[key]


def test_an_exact_tokenizer(tmp_path: Path) -> None:
    results = run(tmp_path, tokenizer=FakeTokenizer(detail=1.0))
    assert results["psnr"]["mean"] == 100 and results["psnr"]["capped"] == 13
    assert results["ssim"]["mean"] == pytest.approx(1, abs=1e-6) and results["l1"] == 0
    assert abs(results["fid[randconv-64]@13"]["value"]) < 1e-9
    assert any("identical" in w for w in results["warnings"])


def test_a_continuous_bottleneck_and_a_single_image(tmp_path: Path) -> None:
    results = run(tmp_path, pictures(1), tokenizer=FakeTokenizer(continuous=True))
    assert "continuous" in results["not_computed"]["codebook"] and "two images" in results["not_computed"]["rfid"]
    assert "usage" not in results and (tmp_path / "report.html").is_file()


def test_skipped_images_are_counted_and_named(tmp_path: Path) -> None:
    batches = batches_of(pictures(5))
    batches[1]["skipped"] = ["photos/broken.jpg: truncated file"]
    results = evaluate(FakeTokenizer(), batches, protocol=MINI, data_facts=FACTS, progress=False, out_dir=tmp_path)
    assert results["skipped"] == 1 and results["num_images"] == 5
    assert (
        "broken.jpg" in (tmp_path / "report.html").read_text() and "broken.jpg" in (tmp_path / "report.md").read_text()
    )


def test_training_mode_and_random_numbers_are_left_as_they_were(tmp_path: Path) -> None:
    tokenizer = FakeTokenizer().train()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run(tmp_path, tokenizer=tokenizer, protocol=Protocol(inception="random", metrics=("rfid",)), images=pictures(2))
    assert tokenizer.training and torch.equal(torch.rand(2), expected)


def test_a_folder_that_cannot_be_written_is_refused_before_the_pass(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    class NeverAsked(FakeTokenizer):
        def quantize(self, images):
            raise AssertionError("an hour of work would be lost")

    with pytest.raises(OSError):
        run(tmp_path / "file" / "out", tokenizer=NeverAsked())


def test_numbers_survive_on_the_screen_when_the_disk_fills_up(tmp_path: Path, monkeypatch, capsys) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imtok.eval.results.write_json", full)
    with pytest.raises(OSError, match="No space"):
        run(tmp_path)
    assert "PSNR: " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
