"""Generated images on disk: drawn once, by all cores, and mapped into memory by every process that reads them."""

import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from ..common.cores import usable_cores
from ..common.files import cache_folder
from .drawing import draw_picture
from .scenes import DRAWING_VERSION, Scene, draw_scene
from .worker import begin_worker

CHUNK = 64  # images a process draws before it reports
QUIET_SECONDS = 1.5  # a progress line appears only when drawing takes longer
PATIENCE_SECONDS = 5.0  # of waiting for another process that draws, before a line says so
HOST = platform.node()


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the pixels of one split."""

    size: int
    seed: int
    count: int
    split: str
    text_share: float
    version: int = DRAWING_VERSION

    @property
    def key(self) -> str:
        text = json.dumps(asdict(self), sort_keys=True)
        return f"{self.split}_{self.size}px_{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return self.count, 3, self.size, self.size

    def scene(self, index: int) -> Scene:
        return draw_scene(seed=self.seed, split=self.split, index=index, text_share=self.text_share)

    def picture(self, index: int) -> np.ndarray:
        return draw_picture(self.scene(index), seed=self.seed, split=self.split, index=index, size=self.size)


def cached_pictures(recipe: Recipe) -> Path | None:
    """The file of uint8 [count, 3, size, size], drawn now unless it is there; None where no disk can hold it."""
    folder = cache_folder() / "generated" / recipe.key
    try:
        if _intact(folder, recipe):
            return folder / "images.u8"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):
            if not _intact(folder, recipe):  # another process may have drawn it while we waited
                _draw(folder, recipe)
        return folder / "images.u8"
    except OSError as error:
        where = error.filename or folder
        warnings.warn(
            f"generated images cannot be cached ({error.strerror or error}: {where}): they are drawn anew each time, "
            "which is slower; IMTOK_CACHE=DIR names another folder",
            stacklevel=2,
        )
        return None


def _intact(folder: Path, recipe: Recipe) -> bool:
    """Complete, of this recipe, and unchanged where a few images were fingerprinted."""
    try:
        facts = json.loads((folder / "facts.json").read_text())
        images = folder / "images.u8"
        return (
            facts["recipe"] == asdict(recipe)
            and images.stat().st_size == int(np.prod(recipe.shape))
            and facts["fingerprint"] == _fingerprint(images, recipe)
        )
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return False


def _fingerprint(images: Path, recipe: Recipe) -> str:
    """Of 32 images spread over the file: reading gigabytes at each start would defeat the cache."""
    pixels = np.memmap(images, dtype=np.uint8, mode="r", shape=recipe.shape)
    digest = hashlib.blake2b(digest_size=16)
    for index in np.unique(np.linspace(0, recipe.count - 1, 32).astype(int)):
        digest.update(pixels[index].tobytes())
    return digest.hexdigest()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time on this machine; the lock of a process that dies is free again."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=PATIENCE_SECONDS)
    except Timeout:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            holder = path.read_text(errors="replace").strip() or "another process"
            print(f"imtok: waiting for {holder}, which draws the same images ({path})", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        with suppress(OSError):  # it is only shown to people
            path.write_text(f"process {os.getpid()} on {HOST}\n")
        yield
    finally:
        lock.release()


def _draw(folder: Path, recipe: Recipe) -> None:
    """Into a folder beside, which takes its name only when everything is in it."""
    needed = int(np.prod(recipe.shape))
    if shutil.disk_usage(folder.parent).free < needed + (64 << 20):
        raise OSError(28, "no space left for the cache", str(folder.parent))
    for left in folder.parent.glob(f".{recipe.key}.*"):  # by a run that was killed while it drew
        dead = left.name.endswith(f"@{HOST}")  # we hold the lock; other machines may not see it
        if dead or time.time() - left.stat().st_mtime > 24 * 3600:
            shutil.rmtree(left, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{recipe.key}.", suffix=f"@{HOST}", dir=folder.parent))
    try:
        images = unfinished / "images.u8"
        with open(images, "wb") as file:
            file.truncate(needed)
        _draw_all(images, recipe)
        facts = {"recipe": asdict(recipe), "fingerprint": _fingerprint(images, recipe)}
        with open(unfinished / "scenes.jsonl", "w") as file:  # for people and other programs; imtok draws them anew
            file.writelines(json.dumps(recipe.scene(i).as_dict()) + "\n" for i in range(recipe.count))
        (unfinished / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _draw_chunk(images: Path, recipe: Recipe, first: int) -> int:
    last = min(first + CHUNK, recipe.count)
    chunk = np.stack([recipe.picture(index) for index in range(first, last)])
    with open(images, "r+b") as file:  # written, not mapped: a full disk is then an error and not a SIGBUS
        file.seek(first * chunk[0].nbytes)
        file.write(chunk.tobytes())
    return last - first


def _draw_all(images: Path, recipe: Recipe) -> None:
    starts = range(0, recipe.count, CHUNK)
    workers = min(usable_cores(), 16, len(starts))
    with _progress(recipe) as advance:
        if workers == 1 or multiprocessing.current_process().daemon:  # daemons may have no children
            for first in starts:
                advance(_draw_chunk(images, recipe, first))
            return
        how = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context(how), begin_worker)
        try:
            for done in as_completed([pool.submit(_draw_chunk, images, recipe, first) for first in starts]):
                advance(done.result())
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _progress(recipe: Recipe) -> Iterator:
    """One line of progress on stderr, and only where somebody has to wait."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    text = "{task.description} {task.completed}/{task.total}"
    columns = (TextColumn(text), *Progress.get_default_columns()[1:3], TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True)
    what = f"drawing {recipe.size} px images ({recipe.split}, once; kept in {cache_folder() / 'generated'})"
    task = bar.add_task(what, total=recipe.count)
    started, shown = time.monotonic(), False

    def advance(count: int) -> None:
        nonlocal shown
        bar.advance(task, count)
        if not shown and time.monotonic() - started > QUIET_SECONDS:
            shown = True
            bar.start() if console.is_terminal else console.print(f"imtok: {what} ...")

    try:
        yield advance
    finally:
        bar.stop()
