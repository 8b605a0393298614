import math

import pytest
import torch
from PIL import Image

from imtok.training.callbacks.codebook import Codebook
from imtok.training.callbacks.health import Health
from imtok.training.callbacks.progress import Progress
from imtok.training.callbacks.samples import Samples, grid
from imtok.training.callbacks.throughput import Throughput, forward_flops
from imtok.training.callbacks.validation import Validation
from imtok.training.factory import compile_parts


def test_codebook_counts_only_the_last_tokens():
    callback = Codebook(tokens=4)
    callback.add({"main": torch.tensor([[[5], [5], [5], [5]]])})
    callback.add({"main": torch.tensor([[[0], [1], [1], [-1]]])})
    values = callback.values({"main": (8,)})
    assert values["train/usage_tokens"] == 4 and values["train/usage"] == 2 / 8 and values["train/dead_codes"] == 6
    entropy = -(math.log(1 / 3) / 3 + 2 * math.log(2 / 3) / 3)
    assert values["train/perplexity"] == pytest.approx(math.exp(entropy))


def test_a_vocabulary_too_large_for_a_histogram():
    callback = Codebook()
    callback.add({"main": torch.tensor([[[2**40], [3]]])})
    assert callback.values({"main": (2**41,)})["train/dead_codes"] == 2**41 - 2


def test_the_grid_shows_what_it_was_given():
    rows = [torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)]
    canvas = grid(rows, gap=1)
    assert canvas.shape == (14, 9, 3)
    assert int(canvas[0, 0, 0]) == 0 and int(canvas[5, 0, 0]) == 255 and int(canvas[10, 5, 0]) == 128


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
    plain = forward_flops(run.training, image)
    compile_parts(run.tokenizer, None)
    assert plain == forward_flops(run.training, image) > 0


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
