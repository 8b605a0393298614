"""Loggers write into the run's folder, under a name by which wandb finds the run again."""

import os
from pathlib import Path

import pytest

from imtok.configs.compose import compose_config
from imtok.training.factory import build_loggers


@pytest.mark.parametrize(
    ("word", "kinds"),
    [
        ("logger=tensorboard", ["CSVLogger", "TensorBoardLogger"]),
        ("logger=[csv,tensorboard]", ["CSVLogger", "TensorBoardLogger"]),
        ("logger=[]", []),
        ("logger.csv=null", []),
    ],
)
def test_metrics_csv_is_written_beside_any_other_logger(tmp_path, word, kinds):
    pytest.importorskip("tensorboard")
    made = build_loggers(compose_config("train", [word])["logger"], tmp_path / "quickstart" / "run7")
    assert [type(logger).__name__ for logger in made] == kinds


def test_each_logger_gets_the_runs_folder_and_name(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("WANDB_RESUME", "")
    monkeypatch.delenv("WANDB_RESUME")
    words = ["logger=[csv,tensorboard,wandb]", "logger.wandb.offline=true"]
    folder = tmp_path / "quickstart" / "run7"
    build_loggers(compose_config("train", ["logger=[csv]"])["logger"], folder)
    assert "WANDB_RESUME" not in os.environ
    csv, tensorboard, wandb = build_loggers(compose_config("train", words)["logger"], folder)
    assert csv.path == folder / "metrics.csv"
    assert Path(tensorboard.log_dir) == folder / "tensorboard"
    assert (wandb.version, Path(wandb.save_dir)) == ("quickstart-run7", folder)
    assert os.environ["WANDB_RESUME"] == "allow"  # the same folder is the same run
