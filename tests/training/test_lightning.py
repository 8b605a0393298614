"""Lightning's callbacks and a user's own, unmodified, from YAML; and arguments of its Trainer."""

import csv
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from imtok.common.errors import UserError

LIGHTNING = "lightning.pytorch.callbacks"


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def column(folder: Path, name: str) -> dict[int, float]:
    return {int(r["update"]): float(r[name]) for r in rows(folder) if r.get(name)}


def test_learning_rate_monitor(start):
    """At n finished updates, the rate of the next: in micro-batches too, and after a resume."""
    monitor = f"+callbacks.lr={{_target_: {LIGHTNING}.LearningRateMonitor, logging_interval: step}}"
    words = ["optimizer.schedule={shape: linear, warmup: 2}", "adversary=patchgan", "trainer.accumulate=2"]
    words.append("adversary.adaptive=null")
    words += ["trainer.checkpoint_every=3", "trainer.keep_checkpoints=9", monitor]
    folder = start(*words, "trainer.max_updates=5")
    logged, own = column(folder, "lr-Adam"), column(folder, "train/lr")
    assert logged == pytest.approx({n: own[n + 1] for n in range(5)}) and len(set(own.values())) > 3
    assert column(folder, "lr-Adam-1").keys() == logged.keys(), "the discriminator's"
    before = rows(folder)
    start(*words, "trainer.max_updates=5", f"ckpt_path={folder}/checkpoints/update_00000003.ckpt")
    assert rows(folder) == before


def test_rows_of_others_stand_in_order(start):
    """Lightning's step counter, which others log at, is our update - 1; numbers that are logged have our update."""
    monitor = f"+callbacks.lr={{_target_: {LIGHTNING}.LearningRateMonitor}}"
    folder = start("trainer.max_updates=6", "trainer.log_every=3", "trainer.validate_every=6", monitor)
    assert [r["update"] for r in rows(folder)] == ["0", "1", "2", "3", "5", "6"]
    assert list(column(folder, "lr-Adam")) == [0, 2, 5] and list(column(folder, "train/lr")) == [1, 3, 6]


STOP = f"{{_target_: {LIGHTNING}.EarlyStopping, monitor: val/psnr, mode: max, patience: 2, min_delta: 1000}}"


def test_early_stopping_ends_the_run_as_finished_and_says_why(start, capsys):
    words = [f"+callbacks.stop={STOP}", "trainer.validate_every=2", "trainer.max_updates=50"]
    folder = start(*words)  # the first validation is the best, two more are not better
    assert list(column(folder, "val/psnr")) == [2, 4, 6]
    assert "finished after update 6 of 50: Monitored metric val/psnr did not improve" in capsys.readouterr().out
    facts = json.loads((folder / "tokenizer" / "config.json").read_text())["training"]
    assert facts["update"] == 6


def test_early_stopping_goes_on_counting_after_a_resume(start):
    words = [f"+callbacks.stop={STOP}", "trainer.validate_every=2", "trainer.checkpoint_every=2"]
    folder = start(*words, "trainer.max_updates=4", folder="first")  # one validation without progress so far
    state = torch.load(folder / "checkpoints" / "last.ckpt")["callbacks"]
    (kept,) = [s for key, s in state.items() if key.startswith("EarlyStopping")]
    assert kept["wait_count"] == 1, "the validation of its own update is in the checkpoint"
    start(*words, "trainer.max_updates=50", f"ckpt_path={folder}/checkpoints/last.ckpt", folder="first")
    assert list(column(folder, "val/psnr")) == [2, 4, 6]


def test_device_stats_monitor(start):
    pytest.importorskip("psutil")
    folder = start(f"+callbacks.device={{_target_: {LIGHTNING}.DeviceStatsMonitor}}", "trainer.max_updates=3")
    for hook in ("on_train_batch_start", "on_train_batch_end"):
        used = column(folder, f"DeviceStatsMonitor.{hook}/cpu_percent")
        assert list(used) == [0, 1, 2], hook
    assert [r["update"] for r in rows(folder)] == ["0", "1", "2", "3"]


class Said(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def said():
    handler, logger = Said(), logging.getLogger("lightning.pytorch")
    logger.addHandler(handler)
    yield handler.lines
    logger.removeHandler(handler)


def test_model_summary_is_printed_and_greetings_are_not(start, said):
    start(f"+callbacks.summary={{_target_: {LIGHTNING}.ModelSummary, max_depth: 2}}")
    text = "\n".join(said)
    assert "tokenizer.encoder" in text and "Trainable params" in text
    assert "GPU available" not in text


OWN = '''
import json
from lightning.pytorch import Callback


class Watch(Callback):
    """Counts what it sees; adds a number of its own to the rows."""

    def __init__(self, file: str, twice: int = 2):
        self.file, self.twice, self.seen, self.norms, self.psnr = file, twice, {}, [], []

    def count(self, name):
        self.seen[name] = self.seen.get(name, 0) + 1

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.count("on_train_batch_end")
        pl_module.log("watch/images", float(len(batch["image"])) * self.twice)
        assert outputs["indices"] and "train/l1" in trainer.callback_metrics

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.count("on_before_optimizer_step")
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self.norms.append(sum(float(g.square().sum()) for g in grads) ** 0.5)

    def on_before_zero_grad(self, trainer, pl_module, optimizer):
        self.count("on_before_zero_grad")

    def on_validation_end(self, trainer, pl_module):
        self.psnr.append(float(trainer.callback_metrics["val/psnr"]))

    def on_train_end(self, trainer, pl_module):
        facts = {"seen": self.seen, "norms": self.norms, "psnr": self.psnr, "steps": trainer.global_step}
        open(self.file, "w").write(json.dumps(facts))

    def state_dict(self):
        return {"seen": dict(self.seen)}
'''


@pytest.fixture
def own_package(tmp_path, monkeypatch) -> str:
    (tmp_path / "their_package").mkdir()
    (tmp_path / "their_package" / "__init__.py").write_text("")
    (tmp_path / "their_package" / "watch.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "their_package.watch.Watch"
    for name in ("their_package.watch", "their_package"):
        sys.modules.pop(name, None)


def test_a_callback_of_someone_s_own_package(start, own_package, tmp_path):
    file = tmp_path / "watched.json"
    words = ["trainer.max_updates=4", "adversary=patchgan", "adversary.start=2", "trainer.clip=1.0e-6"]
    folder = start(*words, f"+callbacks.watch={{_target_: {own_package}, file: '{file}'}}")
    facts: dict[str, Any] = json.loads(file.read_text())
    steps = 4 + 2  # the generator's and the discriminator's
    assert facts["seen"] == {"on_before_zero_grad": 8, "on_train_batch_end": 4, "on_before_optimizer_step": steps}
    assert facts["steps"] == steps, "trainer.global_step"
    generator = [facts["norms"][n] for n in (0, 1, 2, 4)]  # in turn with the discriminator's from update 2 on
    assert generator == pytest.approx(list(column(folder, "train/grad_norm").values()), rel=1e-4), "before clipping"
    assert facts["psnr"] == pytest.approx(list(column(folder, "val/psnr").values()), rel=1e-5)
    assert column(folder, "watch/images") == dict.fromkeys((1, 2, 3, 4), 4.0), (
        "our updates; no column `epoch` or `step`"
    )
    assert not {"epoch", "step"} & set(rows(folder)[0])
    state = torch.load(folder / "checkpoints" / "last.ckpt")["callbacks"]["Watch"]
    assert state["seen"]["on_train_batch_end"] == 4


def test_what_is_no_callback_is_one_line(start):
    with pytest.raises(UserError, match=r"^callbacks\.x\._target_=torch\.nn\.Identity: not a lightning"):
        start("+callbacks.x={_target_: torch.nn.Identity}")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{profilr: simple}", r"^trainer\.lightning\.profilr=simple: .* did you mean 'profiler'\?$"),
        ("{max_steps: 5}", r"^trainer\.lightning\.max_steps=5: imtok sets .*; use trainer\.max_updates$"),
        ("{min_steps: 5}", r"^trainer\.lightning\.min_steps=5: imtok sets this argument itself$"),
        ("{profiler: nonsense}", r"^trainer\.lightning=.*nonsense"),
        ("{limit_train_batches: -3}", r"^trainer\.lightning=.*limit_train_batches"),
    ],
)
def test_a_wrong_argument_of_lightning_s_trainer_is_one_line(start, tmp_path, given, said):
    with pytest.raises(UserError, match=said) as caught:
        start(f"trainer.lightning={given}")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_arguments_of_lightning_s_trainer_arrive(start, said, capsys):
    profiler = "{_target_: lightning.pytorch.profilers.SimpleProfiler}"
    start(f"trainer.lightning={{profiler: {profiler}, limit_train_batches: 3}}", "trainer.max_updates=9")
    assert "run_training_batch" in "\n".join(said)
    assert "finished after update 3 of 9: trainer.lightning.limit_train_batches=3" in capsys.readouterr().out


def test_overfit_batches_repeats_them_to_the_last_update(start, monkeypatch):
    from imtok.data.loading import TrainImages

    read: list[int] = []
    monkeypatch.setattr(
        TrainImages, "_read", lambda self, i, _, real=TrainImages._read: (read.append(i), real(self, i, _))[1]
    )
    folder = start("trainer.lightning={overfit_batches: 2}", "trainer.max_updates=5", "trainer.log_every=1")
    assert rows(folder)[-1]["update"] == "5"
    first, second = read[:2], read[2:4]
    assert first != second and read == [*first, *second, *first, *second, *first]
