"""`imtok export` of a checkpoint as training writes it."""

import os
import subprocess
import sys

import pytest
import torch

from imtok.configs.errors import UserError
from imtok.scripts.export import main
from imtok.tokenizers.hub import from_pretrained, read_config
from imtok.training import checkpoint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two tiny updates, through the command line."""
    folder = tmp_path_factory.mktemp("export") / "run"
    code = "import sys; from imtok.scripts.cli import main; sys.exit(main())"
    words = ["train", "experiment=quickstart", "debug=tiny", f"hydra.run.dir={folder}", "evaluate_after=false"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "IMTOK_CACHE": str(folder.parent / "cache")}
    result = subprocess.run([sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return folder


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_export_holds_the_weights_asked_for(run, weights, tmp_path, capsys):
    assert main([str(run), "--out", str(tmp_path / "out"), "--weights", weights, "--check"]) == 0
    assert "update 2" in capsys.readouterr().out
    state = checkpoint.read(run / "checkpoints" / "last.ckpt")
    expected = state["ema"]["parameters"] if weights == "ema" else state["tokenizer"]
    exported = from_pretrained(tmp_path / "out")
    for name, parameter in exported.named_parameters():
        assert torch.equal(parameter, expected[name]), name
    assert read_config(tmp_path / "out")["training"]["weights"] == weights


def test_export_equals_what_training_wrote(run, tmp_path):
    main([str(run / "checkpoints" / "last.ckpt"), "--out", str(tmp_path / "out")])
    ours, theirs = from_pretrained(tmp_path / "out"), from_pretrained(run / "tokenizer")
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name


def test_nothing_to_export_is_one_line(tmp_path, run):
    with pytest.raises(UserError, match="no such file"):
        main([str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match=r"checkpoints/last\.ckpt"):
        main([str(tmp_path), "--out", str(tmp_path / "out")])
    (tmp_path / "bad.ckpt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"bad\.ckpt"):
        main([str(tmp_path / "bad.ckpt"), "--out", str(tmp_path / "out")])


def test_ema_that_was_not_kept_is_refused(run, tmp_path):
    state = checkpoint.read(run / "checkpoints" / "last.ckpt")
    checkpoint.write(tmp_path / "last.ckpt", {**state, "ema": None})
    with pytest.raises(UserError, match="--weights raw"):
        main([str(tmp_path / "last.ckpt"), "--out", str(tmp_path / "out"), "--weights", "ema"])
