"""Whoever draws the generated images may be killed at any moment: nobody waits for them, nothing of theirs stays."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from imtok.data import generated_cache
from imtok.data.generated_cache import HOST, Recipe, _locked, cached_pictures

ROOT = Path(__file__).parents[2]
DRAW = (
    "from imtok.data.generated_cache import Recipe, cached_pictures\n"
    "print(cached_pictures(Recipe(size=64, seed=0, count={count}, split='train', text_share=0.3)))"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("IMTOK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "generated"


def recipe(count: int = 4) -> Recipe:
    return Recipe(size=64, seed=0, count=count, split="train", text_share=0.3)


def children(pid: int) -> list[int]:
    return [int(n) for task in Path(f"/proc/{pid}/task").glob("*/children") for n in task.read_text().split()]


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "never came true"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    """Ended, also where nobody has collected it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _alive(told, go) -> None:
    told.set()
    go.wait(60)


def test_a_child_does_not_inherit_the_lock(tmp_path):
    fork = multiprocessing.get_context("fork")
    told, go = fork.Event(), fork.Event()
    child = fork.Process(target=_alive, args=(told, go))
    with _locked(tmp_path / "lock"):
        child.start()
        assert told.wait(60)
    entered = threading.Event()

    def enter() -> None:
        with _locked(tmp_path / "lock"):
            entered.set()

    threading.Thread(target=enter, daemon=True).start()
    try:
        assert entered.wait(20) and child.is_alive()
    finally:
        go.set()
        child.join()


def test_who_waits_says_for_whom(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(generated_cache, "PATIENCE_SECONDS", 0.0)
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with _locked(tmp_path / "lock"):
            held.set()
            go.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)
    threading.Timer(0.5, go.set).start()
    with _locked(tmp_path / "lock"):
        holder.join()
    said = capfd.readouterr().err.splitlines()
    assert said == [
        f"imtok: waiting for process {os.getpid()} on {HOST}, which draws the same images ({tmp_path / 'lock'})"
    ]


def test_waiting_ends_with_ctrl_c_also_after_a_sigterm_that_somebody_noted(tmp_path):
    code = (
        "import sys, signal, pathlib\n"
        "from imtok.data.generated_cache import _locked\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"  # as Lightning's: takes a note and returns
        "print('waits', flush=True)\n"
        "with _locked(pathlib.Path(sys.argv[1])): print('entered', flush=True)\n"
    )
    with _locked(tmp_path / "lock"):
        waiting = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert waiting.stdout.readline() == b"waits\n"
        time.sleep(0.5)
        waiting.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        waiting.send_signal(signal.SIGINT)
        said, errors = waiting.communicate(timeout=60)
    assert b"entered" not in said and b"KeyboardInterrupt" in errors and waiting.returncode != 0


def test_what_the_dead_left_is_removed(cache):
    whole = recipe()
    cache.mkdir(parents=True)
    mine, theirs, old, other = (
        cache / name
        for name in (f".{whole.key}.a@{HOST}", f".{whole.key}.b@far", f".{whole.key}.c", f".other.a@{HOST}")
    )
    for folder in (mine, theirs, old, other):
        folder.mkdir()
    day_before = time.time() - 25 * 3600
    os.utime(old, (day_before, day_before))
    assert cached_pictures(whole).is_file()
    assert [folder.exists() for folder in (mine, theirs, old, other)] == [False, True, False, True]


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/task").is_dir() or len(os.sched_getaffinity(0)) < 2, reason="looks for workers"
)
def test_a_killed_drawer_stops_nobody(cache):
    count = 4000
    first = subprocess.Popen([sys.executable, "-c", DRAW.format(count=count)], cwd=ROOT, env=os.environ)
    until(lambda: list(cache.glob(f".{recipe(count).key}.*@{HOST}")) and len(children(first.pid)) >= 2)
    workers = children(first.pid)
    time.sleep(0.5)
    assert first.poll() is None
    first.kill()
    first.wait()
    until(lambda: all(gone(worker) for worker in workers), seconds=15)
    second = subprocess.run(
        [sys.executable, "-c", DRAW.format(count=count)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert second.stdout.strip() == str(cache / recipe(count).key / "images.u8") and "waiting" not in second.stderr
    assert not [p for p in cache.iterdir() if p.name.startswith(".")]
