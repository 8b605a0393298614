"""What callbacks say and when, without a run: limits, lines, pictures, numbers of a GPU."""

import inspect
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from imtok.training.callbacks import health, throughput
from imtok.training.callbacks.codebook import Codebook
from imtok.training.callbacks.health import RULES, Health
from imtok.training.callbacks.progress import Progress, facts
from imtok.training.callbacks.samples import Samples, fixed_images, log_image
from imtok.training.callbacks.throughput import Throughput, forward_flops
from imtok.training.factory import Path
from imtok.training.stopping import StopRequest


def test_defaults_are_those_of_the_yaml_files():
    folder = Path(health.__file__).parents[2] / "configs" / "callbacks"
    for cls, file in ((Codebook, "codebook"), (Samples, "samples")):
        (node,) = yaml.safe_load((folder / f"{file}.yaml").read_text()).values()
        defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
        assert defaults == {name: value for name, value in node.items() if name in defaults}
    assert Progress().seconds_between_lines == 10.0, "callbacks/progress.yaml says ten seconds"
    assert Health().patience == 20


@pytest.mark.parametrize(
    ("name", "fine", "bad"),
    [
        ("gan_weight", 1000.0, 1001.0),
        ("gan_discriminator", 0.02, 0.0199),
        ("usage", 0.1, 0.0999),
        ("data_wait", 0.3, 0.3001),
    ],
)
def test_health_s_limits(name, fine, bad, capsys):
    assert name in [rule for rule, _, _ in RULES]
    training = SimpleNamespace(update=0, settings=SimpleNamespace(log_every=2))
    for value, said in ((fine, 0), (bad, 1)):
        callback = Health(patience=2)
        trainer = SimpleNamespace(callback_metrics={f"train/{name}": torch.tensor(value, dtype=torch.float64)})
        training.update = 4
        callback.on_train_start(trainer, training)
        for update in (4, 5, 6, 6, 7):  # of these, 6 alone has a new value
            training.update = update
            callback.on_train_batch_start(trainer, training)
        assert capsys.readouterr().out == ""
        training.update = 8
        callback.on_train_epoch_end(trainer, training)
        line = capsys.readouterr().out
        assert line.count("imtok: health: ") == said and (f"train/{name}={value:.3g} at update 8" in line) == bool(said)


def test_a_line_names_what_was_measured():
    logged = {"train/total": 1.5, "train/psnr": 20.125, "train/usage": 0.5, "train/images_per_second": 99.6}
    values = {name: torch.tensor(value) for name, value in logged.items()}
    assert facts(values) == "loss 1.5000  PSNR 20.12  usage 50.0%  img/s 100" and facts({}) == ""
    assert facts({"train/l1": torch.tensor(0.25), "train/skipped_updates": torch.tensor(2.0)}) == "l1 0.2500  skipped 2"


def test_a_bar_where_there_is_a_terminal(make_run, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    callback = Progress()
    bars = []
    run = make_run(max_updates=3, callbacks=(callback,))
    run.tokenizer.register_forward_hook(lambda *_: bars.append(callback.bar))
    run.fit()
    (task,) = bars[-1].tasks
    assert (task.completed, task.total, bars[-1].live.is_started, callback.bar) == (3, 3, False, None)
    assert task.fields["facts"].startswith("loss ") and "3/3" in capsys.readouterr().out


def test_only_the_first_process_has_lines(make_run, monkeypatch, capsys):
    run = make_run(max_updates=2, callbacks=(Progress(), Samples(every=1, images=1)))
    monkeypatch.setattr(type(run.trainer), "is_global_zero", False)
    run.fit()
    assert "update 2/2" not in capsys.readouterr().out and not (run.folder / "samples").exists()


@pytest.mark.parametrize("given", [{"every": 0}, {"images": 0}])
def test_samples_are_one_or_more(given):
    Samples(every=1, images=1)
    with pytest.raises(ValueError, match="both 1 or more"):
        Samples(**given)


@pytest.mark.parametrize("captioned", [True, False])
def test_the_first_images_and_their_captions(captioned):
    batches = [{"image": torch.full((2, 1), float(n))} for n in range(3)]
    if captioned:
        for n, batch in enumerate(batches):
            batch["caption"] = [f"{n}a", f"{n}b"]
    data = SimpleNamespace(
        val_loader=lambda max_images: batches, prepare_batch=lambda batch, device: batch | {"image": batch["image"] + 1}
    )
    found = fixed_images(SimpleNamespace(data=data, device=torch.device("cpu")), 3)
    assert found["image"].flatten().tolist() == [1.0, 1.0, 2.0]
    assert found["caption"] == (["0a", "0b", "1a"] if captioned else None)


def test_a_picture_goes_to_the_loggers_that_take_some(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(2, 2, 3)).save(path)
    seen = []
    wandb = SimpleNamespace(log_image=lambda **given: seen.append(given))
    board = SimpleNamespace(
        experiment=SimpleNamespace(
            add_image=lambda name, pixels, update, dataformats: seen.append((name, pixels, update))
        )
    )
    log_image(SimpleNamespace(loggers=[SimpleNamespace(), wandb, board]), "samples", path, update=7)
    assert seen[0] == {"key": "samples", "images": [str(path)], "step": 7}
    assert (seen[1][0], seen[1][2]) == ("samples", 7) and seen[1][1].flatten().tolist() == list(range(12))


def test_a_picture_that_cannot_be_written_costs_a_line(make_run, capsys, monkeypatch):
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imtok.training.callbacks.samples.write_atomically", full)
    run = make_run(max_updates=1, callbacks=(Samples(every=1, images=1),)).fit()
    assert "update_00000001.png could not be written, training goes on" in capsys.readouterr().err
    assert run.training.update == 1


PEAK = {  # dense bf16 or fp16 with tensor cores, in TFLOP/s, from NVIDIA's data sheets
    "NVIDIA H200": 989, "NVIDIA H100 80GB HBM3": 989, "NVIDIA A100-SXM4-40GB": 312, "NVIDIA L40S": 362,
    "NVIDIA L4": 121, "NVIDIA GeForce RTX 4090": 165, "Tesla V100-SXM2-16GB": 125, "Another GPU": None,
}  # fmt: skip


@pytest.mark.parametrize("name", PEAK)
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_memory_and_utilisation_on_a_gpu(make_run, monkeypatch, name, precision):
    """Three forwards of the tokenizer an image, of what the GPU could do; on a clock of one second a look."""
    run = make_run(max_updates=1)
    reported = {}
    training = run.training
    image = torch.zeros(4, 3, 16, 16)
    fake = SimpleNamespace(
        batch_ended_at=9.0,
        logs_now=True,
        device=SimpleNamespace(type="cuda"),
        report=reported.update,
        precision=SimpleNamespace(name=precision),
        tokenizer=training.tokenizer,
        train=training.train,
        eval=training.eval,
    )
    now = iter([10.0, 12.0])
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**29)
    callback, trainer, batch = Throughput(), SimpleNamespace(world_size=2), {"image": image}
    callback.on_train_batch_start(trainer, fake, batch, 0)
    callback.on_train_batch_end(trainer, fake, {}, batch, 0)
    assert reported["train/images_per_second"] == pytest.approx(8 / 3) and reported["train/peak_memory_gib"] == 1.5
    assert reported["train/data_wait"] == pytest.approx(1 / 3)
    if PEAK[name] is None or precision == "fp32":
        assert "train/mfu" not in reported
    else:
        flops = 3 * forward_flops(training, image[:1])
        assert reported["train/mfu"] == pytest.approx(flops * (4 / 3) / (PEAK[name] * 1e12))


# -- what stops a run -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("now", "limit", "asked"), [(104.9, 5, 0), (105.0, 5, 1), (999.0, None, 0)])
def test_the_clock_stops_a_run_when_its_time_is_up(monkeypatch, capsys, now, limit, asked):
    monkeypatch.setattr("imtok.training.stopping.time", SimpleNamespace(monotonic=lambda: now))
    request = StopRequest()
    request.watch_clock(started_at=100.0, max_seconds=limit)
    assert request.of_any_rank(0) == asked
    assert ("trainer.max_time: stopping after this update" in capsys.readouterr().err) == bool(asked)
