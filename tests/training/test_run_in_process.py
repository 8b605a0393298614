"""What `run` does before, after and instead of the updates; in this process."""

import json
import os
import signal

import pytest
import torch
import yaml
from lightning.pytorch import Callback
from safetensors.torch import load_file

from imtok.common.errors import UserError
from imtok.common.precision import tf32
from imtok.training import run as run_module
from imtok.training.callbacks import checkpoint as checkpoint_callback


class At(Callback):
    """Calls `what` when that many updates are finished."""

    def __init__(self, update: int, what) -> None:
        self.update, self.what = update, what

    def on_train_batch_end(self, trainer, training, *_) -> None:
        if training.update == self.update:
            self.what(trainer)


def with_callback(monkeypatch, callback: Callback) -> None:
    real = run_module.build_callbacks
    monkeypatch.setattr(run_module, "build_callbacks", lambda node: [callback, *real(node)])


def test_a_run_writes_what_it_is_and_exports_the_mean(start, capsys):
    folder = start("trainer.max_updates=3", "trainer.ema={decay: 0.5, every: 1, warmup: false}", "seed=4")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"imtok: run folder {folder}" and said[1].startswith("imtok: trainer.precision ")
    assert said[-1] == f"imtok: tokenizer {folder / 'tokenizer'}"
    assert not any("stopped" in line or "finished after" in line or "report" in line for line in said)
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == 4
    assert "seed=4" in yaml.safe_load((folder / "overrides.yaml").read_text())
    resolved = json.loads((folder / "environment.json").read_text())["resolved"]
    assert (
        set(resolved) == {"trainer.precision", "trainer.channels_last", "trainer.tf32"}
        and "auto" not in resolved.values()
    )
    state = torch.load(folder / "checkpoints" / "last.ckpt")
    exported = load_file(folder / "tokenizer" / "model.safetensors")
    for name, value in state["ema"]["parameters"].items():
        assert torch.equal(exported[name], value)
    assert any(not torch.equal(exported[name], value) for name, value in state["tokenizer"].items())
    facts = json.loads((folder / "tokenizer" / "config.json").read_text())["training"]
    assert (facts["update"], facts["images_seen"], facts["seed"], facts["weights"]) == (3, 6, 4, "ema")
    assert facts["skipped_updates"] == 0 and facts["experiment"] == "quickstart"

    (folder / "tokenizer" / "model.safetensors").unlink()
    ckpt = f"ckpt_path={folder}/checkpoints/last.ckpt"
    start(ckpt, "trainer.max_updates=3", "trainer.ema={decay: 0.5, every: 1, warmup: false}")
    said = capsys.readouterr().out
    assert "is at update 3; trainer.max_updates=3 asks for no more" in said
    again = load_file(folder / "tokenizer" / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in exported.items())


def test_another_model_s_checkpoint_is_refused_before_anything_is_written(start, tmp_path):
    folder = start("trainer.ema=null", "trainer.checkpoint_every=1", "trainer.keep_checkpoints=9")
    raw = json.loads((folder / "tokenizer" / "config.json").read_text())["training"]
    assert raw["weights"] == "raw"
    with pytest.raises(UserError, match="the checkpoint is of another model"):
        start(f"ckpt_path={folder}/checkpoints/last.ckpt", "tokenizer.quantizer.codebook_size=32", folder="other")
    with pytest.raises(UserError, match=r"^protocol\."):
        start("evaluate_after=true", "protocol.metrics=[nonsense]", folder="other")
    assert not (tmp_path / "other").exists()
    before = (folder / "metrics.csv").read_text()
    start(f"ckpt_path={folder}/checkpoints/update_00000001.ckpt", "trainer.ema=null")
    assert (folder / "metrics.csv").read_text() == before, "cut back, and written again"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 75)])
def test_a_stopped_run_says_how_to_go_on_and_exports_nothing(start, monkeypatch, capsys, number, code):
    with_callback(monkeypatch, At(1, lambda _: os.kill(os.getpid(), number)))
    folder = start("trainer.max_updates=5", code=code)
    said = f"stopped by {number.name} after update 1; go on with: ckpt_path=last hydra.run.dir={folder}"
    assert said in capsys.readouterr().out and not (folder / "tokenizer").exists()


def test_a_run_that_someone_ends_early_says_so(start, monkeypatch, capsys):
    with_callback(monkeypatch, At(1, lambda trainer: setattr(trainer, "should_stop", True)))
    folder = start("trainer.max_updates=5")
    assert "finished after update 1 of 5: a callback set trainer.should_stop" in capsys.readouterr().out
    assert (folder / "tokenizer").exists()


def test_checkpoints_that_could_not_be_written_are_an_exit_code(start, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint_callback, "write", lambda *_: (_ for _ in ()).throw(OSError("full")))
    folder = start(code=1)
    assert "1 checkpoint(s) could not be written during this run" in capsys.readouterr().err
    assert (folder / "tokenizer").exists()


def test_an_error_of_the_training_is_raised(start, monkeypatch):
    def fail(_) -> None:
        raise RuntimeError("a bug of someone's callback")

    with_callback(monkeypatch, At(1, fail))
    with pytest.raises(RuntimeError, match="a bug of"):
        start()


def test_training_computes_in_tf32_where_it_may_and_what_follows_does_not(start, monkeypatch):
    seen = {"before": torch.get_float32_matmul_precision()}

    class Look(Callback):
        def on_train_batch_end(self, *_) -> None:
            seen["training"] = torch.get_float32_matmul_precision()

        def on_validation_batch_end(self, *_) -> None:
            seen["validation"] = torch.get_float32_matmul_precision()

        def on_train_end(self, *_) -> None:
            seen["training again"] = torch.get_float32_matmul_precision()

    with_callback(monkeypatch, Look())
    # As on a GPU that has TF32; the switch itself can be set and read without one.
    monkeypatch.setattr("imtok.training.run.tf32", lambda on, device: tf32(True, torch.device("cuda")))
    monkeypatch.setattr(
        run_module, "evaluate_run", lambda *_, **__: seen.update(after=torch.get_float32_matmul_precision())
    )
    start("evaluate_after=true", "trainer.max_updates=2", "trainer.validate_every=1", "trainer.ema=null")
    assert seen == {
        "before": "highest",
        "training": "high",
        "validation": "highest",
        "training again": "high",
        "after": "highest",
    }


def test_a_report_at_the_end(start, capsys):
    folder = start("evaluate_after=true", "protocol.metrics=[psnr]", "trainer.max_updates=1", "trainer.ema=null")
    assert capsys.readouterr().out.splitlines()[-1] == f"imtok: report {folder / 'report.html'}"
    facts = json.loads((folder / "metrics.json").read_text())
    assert "psnr" in json.dumps(facts) and (folder / "report.html").is_file()
    assert facts["num_images"] > 0


def test_images_that_could_not_be_read_are_reported_by_the_first_process(monkeypatch, tmp_path, capsys):
    from types import SimpleNamespace

    from imtok.data.skipped import SkippedImages

    monkeypatch.setattr(run_module, "gather_objects", lambda own: [own, ["other.png"]])
    training = SimpleNamespace(skipped=SkippedImages(folder=tmp_path))
    training.skipped.collect(["own.png"])
    run_module.report_skipped(training)
    assert list(training.skipped.lines) == ["own.png", "other.png"]
    assert "2 images could not be read" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    later = SimpleNamespace(skipped=SkippedImages())
    run_module.report_skipped(later)
    assert not later.skipped.lines and capsys.readouterr().err == ""
