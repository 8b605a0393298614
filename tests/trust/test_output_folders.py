"""No command writes over files that it did not make; every command that takes an output place is here."""

import json
import lzma
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from imtok import from_pretrained
from imtok.common.output_folder import first_file
from imtok.data.token_store import TokenStore
from imtok.scripts import cli
from imtok.tokenizers.hub import save_pretrained
from imtok.tokenizers.tokenizer import Tokenizer

ASSETS = Path(__file__).parents[1] / "assets" / "before_rooms"
FIXTURES = Path(os.environ.get("IMTOK_PARITY", Path(__file__).parents[3] / "shared" / "parity"))
READ_ONLY = {"recipes", "plan", "doctor", "parity"}
OVERWRITE = ["--overwrite"]
CNN = {"channels": 4, "channel_multipliers": [1, 1], "blocks_per_level": 1, "attention_levels": [], "z_channels": 4}


def tokenizer(seed: int, quantizer: dict[str, Any] | None = None) -> Tokenizer:
    torch.manual_seed(seed)
    vq = {"_target_": "imtok.tokenizers.quantizers.vq.VQ", "codebook_size": 16}
    made = Tokenizer(
        image_size=16,
        encoder={"_target_": "imtok.tokenizers.encoders.cnn.CNNEncoder", "dim": 4, **CNN},
        quantizer=quantizer or vq,
        decoder={"_target_": "imtok.decoders.cnn.CNNDecoder", **CNN},
    )
    return made.eval()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tokenizers, a continuous one, photos, tokens of them and a training checkpoint: what commands read."""
    root = tmp_path_factory.mktemp("work")
    for name, seed in (("model", 0), ("other", 1)):
        save_pretrained(tokenizer(seed), root / name)
    kl = {"_target_": "imtok.tokenizers.quantizers.kl.KL", "latent_dim": 2}
    save_pretrained(tokenizer(2, kl), root / "kl")
    (root / "photos").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "photos" / f"{number}.png")
    for number in range(24):
        (root / "classes" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (10 * number, 99, 9)).save(root / "classes" / "ab"[number % 2] / f"{number}.png")
    for name in ("grid", "dual"):
        packed = ASSETS / name / "checkpoints" / "last.ckpt.xz"
        (root / f"{name}.ckpt").write_bytes(lzma.decompress(packed.read_bytes()))
    cli.main(["encode", str(root / "photos"), "--model", str(root / "model"), "--out", str(root / "tokens")])
    return root


def evaluate(work: Path, out: Path, model: str = "model", photos: str = "photos") -> list[str]:
    words = ["evaluate", f"model={work / model}", "data=folder", f"data.root='{work / photos}'", f"out='{out}'"]
    return [*words, "protocol=mini", "protocol.metrics=[psnr]", "device=cpu", "data.num_workers=0"]


# {command: (its words, whether `out` is a file, the words that let it write all the same)}
WRITERS: dict[str, tuple[Callable[[Path, Path], list[str]], bool, list[str]]] = {
    "train": (
        lambda work, out: ["train", "debug=tiny", "evaluate_after=false", f"hydra.run.dir='{out}'"],
        False,
        [],  # never: a run folder is a record
    ),
    "evaluate": (evaluate, False, ["overwrite=true"]),
    "export": (lambda work, out: ["export", str(work / "grid.ckpt"), "--out", str(out)], False, OVERWRITE),
    "encode": (
        lambda work, out: ["encode", str(work / "photos"), "--model", str(work / "model"), "--out", str(out)],
        False,
        OVERWRITE,
    ),
    "decode": (
        lambda work, out: ["decode", str(work / "tokens"), "--model", str(work / "model"), "--out", str(out)],
        False,
        OVERWRITE,
    ),
    "import-weights": (
        lambda work, out: [
            *("import-weights", str(FIXTURES / "vqgan" / "weights.safetensors"), "--system", "vqgan"),
            *("--config", str(FIXTURES / "vqgan" / "config.json"), "--image-size", "64", "--out", str(out)),
        ],
        False,
        OVERWRITE,
    ),
    "quantize": (
        lambda work, out: [
            *("quantize", "--model", str(work / "kl"), "--images", str(work / "photos"), "--out", str(out)),
        ],
        False,
        OVERWRITE,
    ),
    "train-teacher": (
        lambda work, out: [
            *("train-teacher", "--updates", "1", "--image-size", "32", "--data-root", str(work / "classes")),
            *("--out", str(out)),
        ],
        True,
        OVERWRITE,
    ),
    "benchmark": (
        lambda work, out: [
            *("benchmark", "quantizers", "lfq14", "--tokens", "8", "--rounds", "1", "--no-memory"),
            *("--json", str(out)),
        ],
        True,
        OVERWRITE,
    ),
}
FOLDERS = [name for name, (_, is_file, _) in WRITERS.items() if not is_file]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMTOK_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["imtok"])


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refusal(words: list[str], capsys: pytest.CaptureFixture) -> str:
    """Runs `imtok WORDS`, which has to fail, and gives its one line."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert stopped.value.code == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("imtok: note:")]
    assert len(lines) == 1 and lines[0].startswith("imtok: "), lines
    return lines[0]


def project(folder: Path) -> Path:
    """Somebody's folder, with every name that a command of imtok would write."""
    folder.mkdir()
    for name in ("README.md", "begun.json", "config.json", "index.json", "metrics.json", "report.md", "decoded.json"):
        (folder / name).write_text('{"mine": 1}')
    (folder / "alignment").mkdir()
    (folder / "alignment" / "config.json").write_text('{"mine": 2}')
    (folder / "tokens_mine.npy").write_bytes(b"mine")
    (folder / "model.safetensors").write_bytes(b"mine too")
    Image.new("RGB", (30, 20), (200, 10, 10)).save(folder / "0.png")
    return folder


def test_every_command_is_known_here(capsys: pytest.CaptureFixture) -> None:
    assert set(cli.COMMANDS) == READ_ONLY | set(WRITERS), "a new command: does it write where its user says?"
    for name in READ_ONLY:
        with suppress(SystemExit):
            cli.main([name, "--help"])
        assert not re.search(r"--out\b|\bout=|--json FILE", capsys.readouterr().out), name


@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_of_other_files_is_refused_before_any_work(
    command: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("torch.load", "safetensors.torch.load_file", "PIL.Image.open"):
        monkeypatch.setattr(name, lambda *_, name=name, **__: pytest.fail(f"{name} was called"))
    folder = project(tmp_path / "project")
    before = contents(folder)
    words, _, remedy = WRITERS[command]
    said = refusal(words(work, folder), capsys)
    assert str(folder) in said and "empty folder" in said
    assert contents(folder) == before
    if remedy:
        assert remedy[0] in said and "0.png" in said, "names the first file"
    file = tmp_path / "file"
    file.write_text("mine")
    if command != "train":  # Hydra itself refuses to make that folder
        for out in (file, file / "below"):
            assert str(out) in refusal([*words(work, out), *remedy], capsys)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("command", [name for name in WRITERS if name not in FOLDERS])
def test_a_file_that_is_there_is_refused(
    command: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words, _, remedy = WRITERS[command]
    (tmp_path / "out").write_text("mine")
    assert remedy[0] in refusal(words(work, tmp_path / "out"), capsys)
    assert (tmp_path / "out").read_text() == "mine"
    (tmp_path / "folder").mkdir()
    assert "folder" in refusal([*words(work, tmp_path / "folder"), *remedy], capsys)


@pytest.mark.parametrize("command", [name for name, (_, _, remedy) in WRITERS.items() if remedy])
def test_overwrite_replaces_its_own_names_only(command: str, work: Path, tmp_path: Path) -> None:
    if command == "import-weights" and not FIXTURES.is_dir():
        pytest.skip("no parity fixtures beside the clone")
    words, is_file, remedy = WRITERS[command]
    if is_file:
        (tmp_path / "out").write_text("mine")
        assert cli.main([*words(work, tmp_path / "out"), *remedy]) == 0
        assert (tmp_path / "out").read_bytes() != b"mine"
        return
    folder = project(tmp_path / "project")
    before = contents(folder)
    assert cli.main([*words(work, folder), *remedy]) == 0
    after = contents(folder)
    written = {
        "evaluate": {"metrics.json", "report.md"},
        "encode": {"begun.json", "index.json"},
        "decode": {"decoded.json", "0.png"},
    }.get(command, {"README.md", "config.json", "model.safetensors"})
    assert {name for name, value in before.items() if after.get(name) != value} == written


def test_an_empty_folder_of_a_file_manager_is_empty(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / ".DS_Store").write_bytes(b"x")
    (out / ".writing_abc").write_bytes(b"half")
    assert first_file(out) is None
    assert cli.main(WRITERS["export"][0](work, out)) == 0
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    assert first_file(tmp_path / "repository") == ".git/"


@pytest.mark.parametrize("command", ["export", "quantize", "train-teacher"])
def test_a_result_is_not_replaced_by_the_next(
    command: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words, _, remedy = WRITERS[command]
    out = tmp_path / "out"
    assert cli.main(words(work, out)) == 0
    assert remedy[0] in refusal(words(work, out), capsys)
    assert cli.main([*words(work, out), *remedy]) == 0


def test_an_export_over_another_leaves_no_alignment_of_the_other(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.main(["export", str(work / "dual.ckpt"), "--out", str(out)]) == 0
    (out / "alignment" / "notes.txt").write_text("mine")
    assert (out / "alignment" / "model.safetensors").is_file()
    assert cli.main(["export", str(work / "grid.ckpt"), "--out", str(out), "--overwrite"]) == 0
    assert set(contents(out)) == {"README.md", "config.json", "model.safetensors", "alignment/notes.txt"}


def test_a_report_is_repeated_but_not_replaced_by_that_of_something_else(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    for _ in range(2):
        assert cli.main(evaluate(work, out)) == 0
    before = contents(out)
    (tmp_path / "photos").mkdir()
    shutil.copy(work / "photos" / "0.png", tmp_path / "photos")
    for words, said in (
        (evaluate(work, out, model="other"), "another model;"),
        (evaluate(work, out, photos=str(tmp_path / "photos")), "another data;"),
        ([*evaluate(work, out), "+protocol.rounding=floor"], "another protocol;"),
    ):
        line = refusal(words, capsys)
        assert said in line and "overwrite=true" in line
        assert contents(out) == before
    assert cli.main([*evaluate(work, out, model="other"), "overwrite=true"]) == 0
    assert json.loads((out / "metrics.json").read_text())["model"]["name"] == "other"


def test_default_reports_of_a_run_are_repeated_and_other_exports_get_their_own(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(ASSETS / "grid", run)
    save_pretrained(tokenizer(3), run / "raw")

    def judged(model: str) -> Path:
        own = ["data.image_size=16", "+protocol.metrics=[psnr]", "+protocol.extractor=randconv-64"]
        small = ["data.count=8", "data.val_count=4", "protocol.probes=none", "weights=random", "device=cpu"]
        assert cli.main(["evaluate", f"model={run / model}", *own, *small, "data.num_workers=0"]) == 0
        return Path(re.findall(r"report: (.*)/report\.html", capsys.readouterr().out)[-1])

    first = judged("tokenizer")
    assert first == judged("tokenizer") and run in (first, *first.parents)
    assert judged("raw") != first and run in judged("raw").parents
    assert json.loads((first / "metrics.json").read_text())["model"]["name"].endswith("run")


def test_decode_goes_on_where_it_was_cut(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*WRITERS["decode"][0](work, tmp_path / "whole"), "--batch-size", "1"]
    assert cli.main(words) == 0
    cut = [*WRITERS["decode"][0](work, tmp_path / "cut"), "--batch-size", "1"]
    calls, original = [], Tokenizer.detokenize

    def failing(self: Tokenizer, *given: Any, **how: Any) -> torch.Tensor:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *given, **how)

    monkeypatch.setattr(Tokenizer, "detokenize", failing)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        cli.main(cut)
    assert {p.suffix for p in (tmp_path / "cut").iterdir()} == {".png", ".json"}
    assert cli.main(cut) == 0
    assert len(calls) == 3 + 2, "two were there already"
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    assert cli.main(cut) == 0 and len(calls) == 5


def test_decode_refuses_pictures_of_other_tokens_and_planted_ones(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = WRITERS["decode"][0](work, tmp_path / "out")
    assert cli.main([*words, "--limit", "2"]) == 0
    tokens = tmp_path / "tokens"
    assert cli.main(["encode", str(work / "photos"), "--model", str(work / "other"), "--out", str(tokens)]) == 0
    other = ["decode", str(tokens), "--model", str(work / "other"), "--out", str(tmp_path / "out")]
    before = contents(tmp_path / "out")
    assert "--overwrite" in refusal(other, capsys)
    Image.new("RGB", (9, 9)).save(tmp_path / "out" / "3.png")
    assert "3.png" in refusal(words, capsys)
    (tmp_path / "out" / "3.png").unlink()
    assert contents(tmp_path / "out") == before
    assert cli.main(words) == 0
    assert {f"{n}.png" for n in range(4)} <= set(contents(tmp_path / "out"))


def test_the_originals_survive_a_decode_into_their_folder(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(work / "photos", photos)
    before = contents(photos)
    assert "0.png" in refusal(WRITERS["decode"][0](work, photos), capsys)
    assert "0.png" in refusal(WRITERS["encode"][0](work, photos), capsys)
    assert contents(photos) == before


def test_encode_again_with_fewer_images_leaves_no_code_of_the_others(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = [*WRITERS["encode"][0](work, out), "--format", "llamagen"]
    assert cli.main(words) == 0
    assert len(list((out / "imagenet16_codes").iterdir())) == 4
    (out / "imagenet16_codes" / "notes.txt").write_text("mine")
    assert cli.main([*words, "--limit", "2", "--overwrite"]) == 0
    assert sorted(p.name for p in (out / "imagenet16_codes").iterdir()) == ["0.npy", "1.npy", "notes.txt"]
    assert sorted(p.name for p in (out / "imagenet16_labels").iterdir()) == ["0.npy", "1.npy"]
    assert len(TokenStore(out)) == 2


def test_a_run_exports_again_when_it_goes_on(tmp_path: Path) -> None:
    """The run's own tokenizer/ folder is replaced by the same run."""
    run = tmp_path / "run"
    shutil.copytree(ASSETS / "grid", run)
    packed = run / "checkpoints" / "last.ckpt.xz"
    packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
    before = from_pretrained(run / "tokenizer").state_dict()
    words = ["ckpt_path=last", f"hydra.run.dir='{run}'", "trainer.max_updates=3", "evaluate_after=false"]
    assert cli.main(["train", *words]) == 0
    after = from_pretrained(run / "tokenizer").state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
