"""`imtok evaluate` from the words typed to the files written."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from imtok.common.build import build
from imtok.configs.compose import compose_config
from imtok.scripts.cli import main as imtok
from imtok.scripts.evaluate import main
from imtok.tokenizers.hub import save_pretrained
from imtok.tokenizers.tokenizer import Tokenizer

SMALL = {"channels": 32, "channel_multipliers": [1, 1], "blocks_per_level": 1, "attention_levels": [], "z_channels": 8}
QUIET = ["protocol=mini", "device=cpu", "data.num_workers=0", "data.eval_batch_size=4"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its exported tokenizer, and photos beside it."""
    root = tmp_path_factory.mktemp("work")
    tokenizer = Tokenizer(
        image_size=32,
        encoder={"_target_": "imtok.tokenizers.encoders.cnn.CNNEncoder", "dim": 4, **SMALL},
        quantizer={"_target_": "imtok.tokenizers.quantizers.vq.VQ", "codebook_size": 16},
        decoder={"_target_": "imtok.decoders.cnn.CNNDecoder", **SMALL},
    )
    run = root / "runs" / "exp" / "stamp"
    save_pretrained(tokenizer, run / "tokenizer", facts={"experiment": "exp"})
    own = compose_config("train", ["data.count=4", "data.val_count=4", "data.image_size=32", "protocol=mini"])
    (run / "config.yaml").write_text(yaml.safe_dump(own))
    photos = root / "photos = of mine"
    photos.mkdir()
    generator = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(generator.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(photos / f"{i}.png")
    (photos / "broken.png").write_bytes(b"not a picture")
    return run


def photos_of(run: Path) -> str:
    return f"data.root='{run.parents[2] / 'photos = of mine'}'"


def test_a_folder_that_nobody_trained_on_is_judged_whole(run_folder: Path, capsys: pytest.CaptureFixture) -> None:
    words = [f"model={run_folder / 'tokenizer'}", "data=folder", photos_of(run_folder), *QUIET]
    assert main(words) == 0
    folder = run_folder / "evaluations" / "folder-all-mini"
    results = json.loads((folder / "metrics.json").read_text())
    assert results["num_images"] == 6 and results["skipped"] == 1 and results["data"]["evaluated"] == "all"
    assert results["image_size"] == [32, 32] and results["model"]["name"] == "exp/stamp"
    assert (folder / "report.html").is_file() and (folder / "report.md").is_file()
    printed, errors = capsys.readouterr()
    assert results["protocol"]["label"] in printed and str(folder / "report.html") in printed
    assert "1 image could not be read" in errors
    assert len((folder / "skipped_images.txt").read_text().splitlines()) == 1


def test_debug_tiny_is_quick_and_says_that_its_weights_are_random(run_folder: Path, tmp_path: Path) -> None:
    words = [f"model={run_folder}", "data=folder", photos_of(run_folder), f"out={tmp_path / 'out'}", "device=cpu"]
    asked = "protocol.metrics=[psnr,rfid,kid,teacher_fd]"
    assert main([*words, "debug=tiny", "data.eval_batch_size=3", asked]) == 0
    results = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert results["num_images"] == 6 and results["image_size"] == [32, 32]  # the model's size, not tiny's
    assert results["random_weights"] and "rfid" not in results
    assert results["kid[randconv-64]"]["subset_size"] == 4 and "fd[dinov2_b][random]@6" in results


@pytest.fixture
def own_metrics(run_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    monkeypatch.setenv("IMTOK_CACHE", str(tmp_path / "cache"))
    file = run_folder / "metrics.json"
    file.write_text('"the run itself wrote this"')
    yield file
    file.unlink()


def test_only_the_runs_own_images_and_protocol_write_over_its_numbers(run_folder: Path, own_metrics: Path) -> None:
    own = [f"model={run_folder}", "data=generated", "data.count=4", "data.val_count=4", *QUIET]
    for other, name in (
        (["data.seed=1"], "generated-val-mini"),
        (["max_images=2"], "generated-val-mini-2images"),
        (["protocol=torchmetrics_default", "protocol.metrics=[psnr]"], "generated-val-torchmetrics-default"),
    ):
        assert main([*own, *other]) == 0
        assert own_metrics.read_text() == '"the run itself wrote this"', other
        assert (run_folder / "evaluations" / name / "metrics.json").is_file()
    assert main(own) == 0
    assert json.loads(own_metrics.read_text())["num_images"] == 4


def test_two_folders_of_photos_stay_apart(run_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (40, 40), (9, 99, 199)).save(other / "a.png")
    for root in (photos_of(run_folder), f"data.root={other}"):
        assert main([f"model={run_folder}", "data=folder", root, *QUIET]) == 0
    evaluations = run_folder / "evaluations"
    assert json.loads((evaluations / "folder-all-mini" / "metrics.json").read_text())["num_images"] == 6
    assert json.loads((evaluations / "folder-all-mini-other" / "metrics.json").read_text())["num_images"] == 1


def test_the_output_folder_under_its_name_in_training(run_folder: Path, tmp_path: Path) -> None:
    words = [f"model={run_folder}", "data=folder", photos_of(run_folder), *QUIET]
    assert main([*words, f"hydra.run.dir='{tmp_path / 'a b'}'"]) == 0
    assert (tmp_path / "a b" / "metrics.json").is_file()


def test_the_runs_own_held_out_images_where_it_recorded_them(run_folder: Path, tmp_path: Path) -> None:
    from imtok.data.datamodule import ImageData
    from imtok.data.folder import FolderImages

    folder = str(run_folder.parents[2] / "photos = of mine")
    ImageData(source=FolderImages(root=folder, val_fraction=0.4, seed=7), image_size=32).write_split(run_folder)
    try:
        held_out = set(json.loads((run_folder / "split.json").read_text())["val"])
        assert main([f"model={run_folder}", "data=folder", photos_of(run_folder), f"out='{tmp_path}'", *QUIET]) == 0
        results = json.loads((tmp_path / "metrics.json").read_text())
        assert results["data"]["evaluated"] == "val"
        assert results["num_images"] + results["skipped"] == len(held_out)
    finally:
        (run_folder / "split.json").unlink()


def test_a_variable_length_is_judged_at_its_lengths(run_folder: Path, variable_node: dict, tmp_path: Path) -> None:
    model = save_pretrained(build(variable_node, key="tokenizer"), tmp_path / "tokenizer")
    out = tmp_path / "out"
    words = [f"model={model}", "data=folder", photos_of(run_folder), f"out='{out}'", "curve_images=2", *QUIET]
    assert main(words) == 0
    curve = json.loads((out / "metrics.json").read_text())["curve"]
    assert curve["images"] == 2 and [p["tokens"] for p in curve["points"]] == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=generated"], "model="),
        (["model=/nowhere/at/all"], "no such folder"),
        (["model=MODEL", "datas=folder"], "datas"),
        (["model=MODEL", "data.image_sizes=32"], "did you mean 'data.image_size'"),
        (["model=MODEL", "data=folder", "data.root=/nowhere"], "/nowhere"),
        (["model=MODEL", "protocol=nonsense"], "nonsense"),
        (["model=MODEL", "protocol.rounding=ceil"], "protocol.rounding=ceil"),
        (["model=MODEL", "split=test"], "split=test"),
        (["model=MODEL", "require=[rfids]"], "rfid"),
        (["--mode", "MODEL"], "key=value"),
        (["MODEL"], "key=value"),
        (["model=MODEL", "out=here", "hydra.run.dir=there"], "hydra.run.dir=there"),
    ],
)
def test_a_mistake_is_one_line_and_exit_1(
    run_folder: Path, words: list[str], said: str, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMTOK_DEBUG", raising=False)
    with pytest.raises(SystemExit) as stopped:
        imtok(["evaluate", *(word.replace("MODEL", str(run_folder)) for word in words)])
    assert stopped.value.code == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("imtok: ") and said in lines[0]


def test_help_needs_no_torch() -> None:
    code = "import sys; from imtok.scripts.evaluate import main; main(['--help']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "protocol=NAME" in done.stdout and "tok_eval_v1" in done.stdout


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("gumbel_vq.GumbelVQ", {"codebook_size": 16, "sample_in_eval": True}, "quantizer: stochastic"),
        ("kl.KL", {"sample_in_eval": True}, "quantizer: stochastic"),
        ("identity.Identity", {}, "codebook: none, a continuous bottleneck"),
    ],
)
def test_stochastic_and_continuous_models_are_judged_and_said_to_be_so(name, settings, says, tmp_path) -> None:
    tokenizer = Tokenizer(
        image_size=32,
        encoder={"_target_": "imtok.tokenizers.encoders.cnn.CNNEncoder", "dim": 4, **SMALL},
        quantizer={"_target_": f"imtok.tokenizers.quantizers.{name}", **settings},
        decoder={"_target_": "imtok.decoders.cnn.CNNDecoder", **SMALL},
    )
    model = save_pretrained(tokenizer, tmp_path / "model", facts={"experiment": "exp"})
    words = [f"model={model}", "data=generated", "data.val_count=3", f"out={tmp_path / 'out'}", "debug=tiny", *QUIET]
    assert main(words) == 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.startswith("# exp (model)") and says in report
    results = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert ("usage" in results) == ("codebook" not in results["not_computed"]) == name.startswith("gumbel")
