import copy
import itertools
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image

from imtok.common.types import IndexSegment
from imtok.training import validation_means
from imtok.training.callbacks.codebook import Codebook
from imtok.training.callbacks.health import Health
from imtok.training.callbacks.progress import Progress
from imtok.training.callbacks.samples import Samples, grid, image_rows
from imtok.training.callbacks.throughput import Throughput, forward_flops
from imtok.training.callbacks.validation import Validation
from imtok.training.compiling import compile_parts
from imtok.training.validation_means import ValidationMeans


def test_codebook_counts_only_the_last_tokens():
    callback = Codebook(tokens=4)
    callback.add({"main": torch.tensor([[[5], [5], [5], [5]]])})
    callback.add({"main": torch.tensor([[[0], [1], [1], [-1]]])})
    values = callback.values({"main": (8,)})
    assert values["train/usage_tokens"] == 4 and values["train/usage"] == 2 / 8 and values["train/dead_codes"] == 6
    entropy = -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3)
    assert values["train/perplexity"] == pytest.approx(math.exp(entropy))


def test_several_codebooks_are_averaged_and_their_dead_codes_summed():
    callback = Codebook(tokens=100)
    callback.add({"main": torch.tensor([[[0, 0], [1, 0]], [[2, 1], [3, 1]]]), "fine": torch.tensor([[[7]], [[7]]])})
    values = callback.values({"main": (4, 8), "fine": (10,)})
    assert values["train/usage_tokens"] == 4
    assert values["train/usage"] == pytest.approx((4 / 4 + 2 / 8 + 1 / 10) / 3)
    assert values["train/perplexity"] == pytest.approx((4 + 2 + 1) / 3)
    assert values["train/dead_codes"] == 0 + 6 + 9


def test_the_window_of_tokens_is_never_shorter_than_asked_and_is_checkpointed():
    callback = Codebook(tokens=5)
    for code in range(4):
        callback.add({"main": torch.full((1, 3, 1), code)})  # three tokens each
    assert callback.held == 6 and len(callback.kept) == 2
    again = Codebook(tokens=5)
    again.load_state_dict(callback.state_dict())
    assert again.values({"main": (4,)}) == callback.values({"main": (4,)})
    assert again.values({"main": (4,)})["train/dead_codes"] == 2
    Codebook(tokens=1)
    with pytest.raises(ValueError, match="tokens=0"):
        Codebook(tokens=0)


def test_a_vocabulary_too_large_for_a_histogram():
    callback = Codebook()
    callback.add({"main": torch.tensor([[[2**40], [3]]])})
    assert callback.values({"main": (2**41,)})["train/dead_codes"] == 2**41 - 2


def test_the_grid_shows_what_it_was_given():
    rows = [torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)]
    canvas = grid(rows, gap=1)
    assert canvas.shape == (14, 9, 3)
    assert int(canvas[0, 0, 0]) == 0 and int(canvas[5, 0, 0]) == 255 and int(canvas[10, 5, 0]) == 128


def test_the_grid_keeps_every_level():
    levels = torch.arange(256.0).view(1, 1, 16, 16)
    canvas = grid([levels.expand(1, 3, 16, 16) / 255])
    assert torch.equal(canvas, levels[0, 0, :, :, None].expand(16, 16, 3).to(torch.uint8))


def test_speed_counts_training_and_its_wait_for_data_alone(make_run, toy_data, monkeypatch):
    """On a clock that a batch moves by three seconds and a forward by one; validation takes as long and is left out."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def takes(seconds):
        now[0] += seconds

    class SlowData(toy_data):
        def _collate(self, samples):
            takes(3.0)
            return super()._collate(samples)

    run = make_run(
        callbacks=(Throughput(), Validation()), data=SlowData(), max_updates=4, log_every=2, validate_every=2
    )
    run.tokenizer.register_forward_pre_hook(lambda *_: takes(1.0))
    run.fit()
    header, *rows = (row.split(",") for row in run.rows)
    values = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    for update in ("2", "4"):
        assert float(values[update]["train/images_per_second"]) == pytest.approx(2 / 4)
        assert float(values[update]["train/data_wait"]) == pytest.approx(3 / 4)


def test_pictures_lines_and_columns_of_a_run(make_run, capsys):
    callbacks = (Progress(), Throughput(), Codebook(), Validation(), Samples(every=3, images=2), Health())
    run = make_run(callbacks=callbacks, max_updates=4, validate_every=2).fit()
    assert sorted(p.name for p in (run.folder / "samples").iterdir()) == [
        "update_00000001.png",
        "update_00000003.png",
        "update_00000004.png",
    ]
    assert Image.open(run.folder / "samples" / "update_00000004.png").size == (2 * 18 - 2, 3 * 18 - 2)
    assert "update 4/4" in capsys.readouterr().out
    header = run.rows[0].split(",")
    assert {"val/l1", "val/psnr", "val/usage", "train/usage", "train/images_per_second"} <= set(header)
    assert [r.split(",")[0] for r in run.rows[1:] if r.split(",")[header.index("val/psnr")]] == ["2", "4"]


def test_flops_are_counted_behind_torch_compile_too(make_run):
    run, image = make_run(max_updates=1).fit(), torch.zeros(1, 3, 16, 16)
    run.training.train()
    plain = forward_flops(run.training, image)
    assert run.tokenizer.training, "training goes on as it was"
    compile_parts(run.tokenizer, None)
    assert plain == forward_flops(run.training, image) > 0


class Clock:
    """A second between any two looks at it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.mark.parametrize("validate_every", [1, 100])
def test_throughput_counts_updates_and_the_wait_for_data_alone(make_run, toy_data, monkeypatch, validate_every):
    clock = Clock()
    monkeypatch.setattr("time.perf_counter", clock)
    how = {"max_updates": 5, "log_every": 2, "validate_every": validate_every, "accumulate": 2}
    run = make_run(data=toy_data(batch_size=3), callbacks=(Validation(), Throughput()), **how)

    def long_validation(*_) -> None:
        clock.now += 0 if run.training.training else 1000

    run.tokenizer.register_forward_hook(long_validation)
    run.fit()
    header, *rows = [line.split(",") for line in run.rows]
    found = [dict(zip(header, row, strict=True)) for row in rows]
    logged = {int(r["update"]): r for r in found if r["train/images_per_second"]}
    assert list(logged) == [2, 4]
    for row in logged.values():  # a second of waiting and one of computing for each micro-batch of three images
        assert float(row["train/images_per_second"]) == 1.5 and float(row["train/data_wait"]) == 0.5


def test_samples_are_made_in_eval_mode_with_the_weights_of_the_ema(make_run):
    seen: list[tuple] = []
    run = make_run(
        callbacks=(Samples(every=2, images=2),), max_updates=3, ema={"decay": 0.5}, freeze=("encoder.conv_in",)
    )
    tokenizer = run.tokenizer

    def look(*_) -> None:
        if not torch.is_grad_enabled():
            weight, mean = tokenizer.decoder.conv_out.weight, run.training.ema.parameters["decoder.conv_out.weight"]
            seen.append((run.training.update, run.training.training, tokenizer.training, torch.equal(weight, mean)))

    tokenizer.decoder.register_forward_hook(look)
    run.fit()
    assert seen == [(n, False, False, True) for n in (1, 2, 3)]
    assert tokenizer.training and tokenizer.decoder.training and not tokenizer.encoder.conv_in.training
    mean = run.training.ema.parameters["decoder.conv_out.weight"]
    assert not torch.equal(tokenizer.decoder.conv_out.weight, mean), "the training's own are back"


def test_the_three_rows_of_an_image(make_run):
    run = make_run(max_updates=1).fit()
    images = torch.rand(2, 3, 16, 16) * 4 - 2  # beyond the range: a reconstruction may be
    run.tokenizer.reconstruct = lambda x, conditions: -x
    given, made, difference = image_rows(run.training, {"image": images})
    assert torch.equal(given, (images + 1) / 2)
    assert torch.allclose(made, ((-images).clamp(-1, 1) + 1) / 2)
    assert torch.equal(difference, (given - made).abs())


class Fixed(Callback):
    """Logs a share of used codes, as Codebook does, in its own place in the list."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def on_train_batch_end(self, trainer, training, outputs, batch, batch_idx) -> None:
        training.report({"train/usage": self.values[training.update - 1]})


@pytest.mark.parametrize("health_first", [True, False])
@pytest.mark.parametrize(
    ("values", "at"),
    [([0.05] * 6, 3), ([0.05, 0.05, 0.5, 0.05, 0.05, 0.05], 6), ([0.05, 0.05, 0.1, 0.05, 0.05, 0.5], None)],
    ids=["from the first", "with a break, to the last", "a break too many"],
)
def test_health_speaks_once_in_any_order_of_callbacks(make_run, capsys, health_first, values, at):
    pair = [Health(patience=3), Fixed(values)]
    make_run(callbacks=tuple(pair if health_first else pair[::-1]), max_updates=6).fit()
    lines = [line for line in capsys.readouterr().out.splitlines() if "health" in line]
    expected = [f"imtok: health: few codes are used (train/usage=0.05 at update {at}); try tokenizer/quantizer=ema_vq"]
    assert [line.split(",")[0] for line in lines] == (expected if at else [])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_validation_comes_at_its_updates_and_at_the_end_once(make_run, accumulate):
    run = make_run(callbacks=(Validation(),), max_updates=5, validate_every=2, accumulate=accumulate).fit()
    header, *rows = [line.split(",") for line in run.rows]
    assert [row[0] for row in rows if row[header.index("val/psnr")]] == ["2", "4", "5"]
    silent = make_run("silent", max_updates=2, validate_every=1).fit()
    assert "val/psnr" not in silent.rows[0]


def test_validation_is_in_eval_mode_and_weighs_batches_by_their_images(make_run, toy_data):
    class Uneven(toy_data):
        def val_loader(self, max_images=None):
            samples = [self._sample(20_000 + n) for n in range(3)]
            return torch.utils.data.DataLoader(samples, batch_size=2, collate_fn=self._collate)

    run = make_run(data=Uneven(), callbacks=(Validation(),), max_updates=1).fit()
    assert run.training.validation.images == 3
    images = torch.cat([batch["image"] for batch in run.data.val_loader()])
    run.tokenizer.eval()
    with torch.no_grad():
        made = run.tokenizer(images).reconstruction
    values = run.trainer.callback_metrics
    errors = (images - made.clamp(-1, 1)).square().flatten(1).mean(1).tolist()
    psnr = sum(10 * math.log10(4 / error) for error in errors) / 3
    assert float(values["val/psnr"]) == pytest.approx(psnr, rel=1e-5)
    assert float(values["val/l1"]) == pytest.approx(float((images - made).abs().mean()), rel=1e-5)


def test_means_over_ranks(monkeypatch):
    layout = (IndexSegment("main", 2, (4,)),)
    parts = [ValidationMeans(), ValidationMeans(), ValidationMeans()]  # the last rank had no image
    parts[0].add({"l1": torch.tensor(1.0)}, {"main": torch.tensor([[[0], [1]]])}, layout, count=1)
    parts[1].add({"l1": torch.tensor(3.0)}, {"main": torch.tensor([[[1], [1]]] * 2)}, layout, count=2)
    for own in itertools.permutations(parts):
        monkeypatch.setattr(validation_means, "gather_objects", lambda _, own=own: copy.deepcopy(list(own)))
        result = own[0].result()
        assert result["l1"] == (1 * 1 + 2 * 3) / 3 and result["usage"] == 2 / 4
        entropy = -(1 / 6 * math.log2(1 / 6) + 5 / 6 * math.log2(5 / 6))
        assert result["perplexity"] == pytest.approx(2**entropy)


def validated(run) -> float:
    (values,) = run.trainer.validate(run.training, datamodule=run.data, verbose=False)
    return values["val/psnr"]


def test_validation_is_that_of_the_ema(make_run):
    how = {"callbacks": (Validation(),)}
    run = make_run(
        max_updates=3, ema={"decay": 0.999}, **how
    ).fit()  # an average that has hardly left the first weights
    fresh = make_run("fresh", max_updates=1, optimizer={"name": "sgd", "lr": 1e-12}, **how).fit()
    first = validated(fresh)
    assert validated(run) == pytest.approx(first, abs=0.02)
    run.training.ema = None
    assert abs(validated(run) - first) > 0.05


def test_samples_are_drawn_as_in_evaluation_and_training_goes_on(make_run, toy_data):
    """With a quantizer that draws codes in training and takes the likeliest in evaluation."""
    modes = []

    class Mode(Callback):
        def on_train_batch_end(self, trainer, training, *_):
            modes.append(training.tokenizer.training)

    gumbel = {"_target_": "imtok.tokenizers.quantizers.gumbel_vq.GumbelVQ"}
    callbacks = (Samples(every=1, images=2), Mode())
    run = make_run(callbacks=callbacks, quantizer=gumbel, losses=("l1",), max_updates=2).fit()
    assert modes == [True, True]
    given = next(iter(toy_data().val_loader(2)))["image"]
    with torch.no_grad():
        made = run.tokenizer.eval().reconstruct(given).clamp(-1, 1)
    drawn = np.asarray(Image.open(run.folder / "samples" / "update_00000002.png")).astype(float)
    for row, pixels in enumerate(((given + 1) / 2, (made + 1) / 2, (given - made).abs() / 2)):
        for column, image in enumerate(pixels):
            found = drawn[row * 18 : row * 18 + 16, column * 18 : column * 18 + 16]
            assert abs(found - 255 * image.permute(1, 2, 0).numpy()).max() <= 1, (row, column)


def test_lines_say_how_long_it_will_take(make_run, capsys, monkeypatch):
    """On a clock that counts ten thousand seconds an update."""
    at = {"update": 0}

    class Clock(Callback):
        def on_train_batch_end(self, trainer, training, *_):
            at["update"] = training.update

    clock = SimpleNamespace(monotonic=lambda: 10_000.0 * at["update"])
    monkeypatch.setattr("imtok.training.callbacks.progress.time", clock)
    make_run(callbacks=(Clock(), Progress(seconds_between_lines=20_000)), max_updates=5).fit()
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines() if line.startswith("update ")]
    assert [words[0] for words in lines] == ["update 2/5", "update 4/5", "update 5/5"]
    assert [words[-1] for words in lines[:2]] == ["8:20:00 left", "2:46:40 left"] and "left" not in lines[2][-1]
    assert all(words[1].startswith("loss ") for words in lines)
