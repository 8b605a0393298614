"""Progress bar with images per second, hidden where the output is no terminal."""

import time
from collections.abc import Iterable, Sized
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def number_of_images(batches: Iterable[Any]) -> int | None:
    """Of a loader or a list; None where only the pass itself tells."""
    if isinstance(batches, list | tuple):
        return sum(len(batch["key"]) for batch in batches)
    sampler = getattr(batches, "sampler", None)
    return len(sampler) if isinstance(sampler, Sized) else None


class ImageProgress:
    """Context manager around a pass over `batches`; counts images."""

    def __init__(self, batches: Iterable[Any], *, show: bool) -> None:
        console = Console(stderr=True)
        columns = (
            "evaluate",
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=console, disable=not (show and console.is_terminal), transient=True)
        self.task = self.progress.add_task("evaluate", total=number_of_images(batches), rate="")

    def __enter__(self) -> "ImageProgress":
        self.started, self.images = time.perf_counter(), 0
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def advance(self, images: int) -> None:
        self.images += images
        rate = self.images / (time.perf_counter() - self.started)
        self.progress.update(self.task, advance=images, rate=f"{rate:.1f} images/s")
