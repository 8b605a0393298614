"""Somebody's own folder, formats mixed, two files broken: trained on, exported, judged, and the two named once each."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imtok import from_pretrained
from imtok.configs.compose import compose_config
from imtok.training.resume import arguments_for_resume
from imtok.training.run import run

FORMATS = ["jpg", "png", "webp", "tif", "gif", "bmp"]
MODES = ["RGB", "L", "RGBA"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "my photos, 2024 = all"
    root.mkdir()
    random = np.random.default_rng(0)
    for number in range(18):
        side = int(random.integers(24, 60))
        image = Image.fromarray(random.integers(0, 256, (side, 40, 3), dtype=np.uint8))
        suffix, mode = FORMATS[number % 6], MODES[number // 6]
        image = image.convert("RGB" if mode == "RGBA" and suffix in ("jpg", "bmp") else mode)
        image.save(root / f"picture {number:02d}.{suffix}")
    whole = (root / "picture 00.jpg").read_bytes()
    (root / "cut off.jpg").write_bytes(whole[: len(whole) // 3])
    (root / "no picture.png").write_bytes(b"these bytes are no picture")
    return root


def test_trains_exports_evaluates_and_names_the_broken_ones(photos, tmp_path, capsys, monkeypatch) -> None:
    folder = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    # An epoch and more, so that every file has had its turn.
    words = ["experiment=quickstart", "data=folder", f"data.root='{photos}'", "debug=tiny", "trainer.max_updates=11"]
    assert run(compose_config("train", words), overrides=words, folder=folder) == 0
    errors = capsys.readouterr().err
    assert errors.count("2 images could not be read") == 1, errors
    named = (folder / "skipped_images.txt").read_text().splitlines()
    assert sorted(Path(line.split(": ")[0]).name for line in named) == ["cut off.jpg", "no picture.png"]

    results = json.loads((folder / "metrics.json").read_text())
    held_out = set(json.loads((folder / "split.json").read_text())["val"])
    assert results["num_images"] + results["skipped"] == len(held_out)
    assert (
        results["data"]["val_crop"]
        == facts_of(folder)["data"]["val_crop"]
        == "ADM centre crop (box halving, bicubic) 32"
    )
    assert (folder / "report.html").is_file()
    facts = facts_of(folder)
    assert facts["data"]["num_train"] + facts["data"]["num_val"] == 20
    assert from_pretrained(folder / "tokenizer").image_size == (32, 32)

    # Another file, then on: what was held out stays held out.
    Image.new("RGB", (40, 40)).save(photos / "later.png")
    on = [*words[:-1], "trainer.max_updates=12", f"ckpt_path={folder / 'checkpoints' / 'last.ckpt'}"]
    on = [w for w in arguments_for_resume([*on, f"hydra.run.dir={folder}"]) if not w.startswith("hydra.")]
    assert run(compose_config("train", on), overrides=on, folder=folder) == 0
    assert set(json.loads((folder / "split.json").read_text())["val"]) == held_out
    assert len((folder / "skipped_images.txt").read_text().splitlines()) == 2, "named once, also by a run that goes on"


def facts_of(folder: Path) -> dict:
    return json.loads((folder / "tokenizer" / "config.json").read_text())["training"]
