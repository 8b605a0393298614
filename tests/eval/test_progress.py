"""Images are counted where the loader tells their number, and their rate is shown on a terminal."""

import pytest
import torch
from fake_tokenizer import batches_of, pictures
from rich.console import Console
from torch.utils.data import DataLoader

from imtok.eval import progress
from imtok.eval.progress import ImageProgress, number_of_images


def test_number_of_images() -> None:
    batches = batches_of(pictures(5), 2)
    assert number_of_images(batches) == number_of_images(tuple(batches)) == 5
    assert number_of_images(DataLoader(torch.arange(7), batch_size=3)) == 7
    assert number_of_images(iter(batches)) is None


@pytest.mark.parametrize(
    ("show", "terminal", "shown"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_it_is_shown_on_a_terminal_only(monkeypatch, show: bool, terminal: bool, shown: bool) -> None:
    monkeypatch.setattr(progress, "Console", lambda **options: Console(force_terminal=terminal, **options))
    assert ImageProgress([], show=show).progress.disable is not (show and terminal)


def test_the_rate_is_images_by_seconds_since_the_start(monkeypatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    with ImageProgress(batches_of(pictures(5), 2), show=False) as bar:
        for images, at, rate in ((2, 104.0, "0.5"), (3, 110.0, "0.5"), (15, 120.0, "1.0")):
            now[0] = at
            bar.advance(images)
            [task] = bar.progress.tasks
            assert task.fields["rate"] == f"{rate} images/s"
        assert (task.total, task.completed) == (5, 20)


def test_it_stops_with_the_pass(monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "Console", lambda **options: Console(force_terminal=True, **options))
    bar = ImageProgress(batches_of(pictures(3), 2), show=True)
    assert not bar.progress.live.is_started
    with bar:
        assert bar.progress.live.is_started
        bar.advance(2)
        bar.progress.refresh()
    assert not bar.progress.live.is_started
    printed, errors = capsys.readouterr()
    assert printed == "" and "2/3" in errors and "images/s" in errors
