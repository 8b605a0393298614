"""Training runs behind a table of docs/, and the part of the page that holds it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def train(name: str, folder: Path, words: Sequence[str], *, threads: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # what an interrupted run left
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    command = [sys.executable, "-m", "imtok.scripts.cli", "train", *words, f"hydra.run.dir={folder}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: {(done.stderr or done.stdout)[-2000:]}")


def table_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def written_between(page: str, begin: str, end: str, text: str) -> str:
    """The page with this text between its two marks."""
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"
