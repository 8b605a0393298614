"""`imtok export` of a checkpoint as training writes it."""

import pytest
import torch

from imtok.common.errors import UserError
from imtok.configs.compose import compose_config
from imtok.scripts.export import main
from imtok.tokenizers.hub import from_pretrained, read_config
from imtok.training import checkpoint
from imtok.training.run import run as train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two tiny updates; in this process, because starting another takes longer than the rest."""
    folder = tmp_path_factory.mktemp("export") / "run"
    words = ["experiment=quickstart", "debug=tiny", "evaluate_after=false", "trainer.threads=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMTOK_CACHE", str(folder.parent / "cache"))
        assert train(compose_config("train", words), overrides=words, folder=folder) == 0
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
    (tmp_path / "bad.ckpt").write_bytes(b"hello world")
    with pytest.raises(UserError, match=rf"^{tmp_path}/bad\.ckpt: cannot be read"):
        main([str(tmp_path / "bad.ckpt"), "--out", str(tmp_path / "out")])


def test_ema_that_was_not_kept_is_refused(run, tmp_path):
    state = checkpoint.read(run / "checkpoints" / "last.ckpt")
    checkpoint.write(tmp_path / "last.ckpt", {**state, "ema": None})
    with pytest.raises(UserError, match="--weights raw"):
        main([str(tmp_path / "last.ckpt"), "--out", str(tmp_path / "out"), "--weights", "ema"])


def test_a_checkpoint_of_another_architecture_is_refused_before_a_run_folder_exists(run, tmp_path):
    words = ["debug=tiny", "tokenizer.quantizer.codebook_size=32", f"ckpt_path={run}/checkpoints/last.ckpt"]
    with pytest.raises(UserError, match=r"another model.*codebook_size=64 there, 32 here"):
        train(compose_config("train", words), overrides=words, folder=tmp_path / "new")
    assert not (tmp_path / "new").exists()
