"""`imtok train` and `python train.py`: what Hydra answers, sweeps, and refusals of one line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TINY = ["debug=tiny", "evaluate_after=false", "trainer.threads=1"]


def train(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "IMTOK_CACHE": str(cwd / "cache")}
    command = [sys.executable, str(ROOT / "train.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)


def test_the_whole_config_is_printed_with_values(tmp_path: Path) -> None:
    done = train("--cfg", "job", "--resolve", "data.image_size=96", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert config["tokenizer"]["image_size"] == 96 and config["name"] == "quickstart"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_sweep_runs_one_after_another(tmp_path: Path) -> None:
    done = train("-m", *TINY, "data.batch_size=1,2", "tokenizer/quantizer=fsq", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = tmp_path.glob("runs/quickstart/*_sweep")
    for number, size in enumerate((1, 2)):
        config = yaml.safe_load((folder / str(number) / "config.yaml").read_text())
        assert config["data"]["batch_size"] == size
        assert (folder / str(number) / "tokenizer" / "model.safetensors").is_file()


def test_a_refusal_is_one_line_and_leaves_no_folder(tmp_path: Path) -> None:
    for word, said in (
        ("seed=abc", "imtok: seed=abc: a whole number\n"),
        ("adversary.weight=3", "imtok: adversary.weight=3: no such key; "),
        ("tokenizer.quantizer._target_=nowhere.VQ", "imtok: tokenizer.quantizer._target_=nowhere.VQ: no module"),
    ):
        done = train(*TINY, word, "hydra.run.dir=run", cwd=tmp_path)
        assert done.returncode == 1 and done.stderr.startswith(said) and done.stderr.count("\n") == 1, done.stderr
        assert not (tmp_path / "run").exists()
