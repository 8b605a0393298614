"""The front door: quick help without heavy imports, errors in one line."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imtok.scripts.cli import commands

ROOT = Path(__file__).parents[2]


def imtok(*words: str, **environment: str) -> subprocess.CompletedProcess:
    code = "import sys; from imtok.scripts.cli import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_help_lists_the_commands_with_a_line_each():
    start = time.perf_counter()
    result = imtok("--help")
    assert time.perf_counter() - start < 5  # a second on an idle machine; this only catches an import of torch on disk
    assert result.returncode == 0
    for name in (
        "train",
        "export",
        "encode",
        "decode",
        "import-weights",
        "recipes",
        "plan",
        "doctor",
        "parity",
        "benchmark",
    ):
        assert any(line.split()[:1] == [name] and len(line.split()) > 3 for line in result.stdout.splitlines()), name


def test_every_command_says_what_it_is():
    for name, line in commands().items():
        assert line.endswith("."), f"{name}: the docstring's first line is its help"


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([name, "--help"] for name in commands())])
def test_help_loads_nothing_heavy(words):
    code = (
        "import sys; from imtok.scripts.cli import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as stop: code = stop.code\n"
        "heavy = {'torch', 'lightning', 'numpy', 'torchvision', 'transformers', 'wandb'} & set(sys.modules)\n"
        "sys.exit(code or (f'loaded {heavy}' if heavy else 0))"
    )
    result = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "imtok" in result.stdout


def test_unknown_command_and_flag_are_one_line():
    for words, expected in (
        (["trian"], "did you mean 'train'?"),
        (["encode", "x", "--modle", "y"], ""),
        (["train", "--data.root", "x"], "key=value"),
    ):
        result = imtok(*words)
        assert result.returncode == 1
        assert result.stderr.startswith("imtok: ") and result.stderr.count("\n") == 1 and expected in result.stderr


def test_debug_gives_the_traceback():
    assert "Traceback" in imtok("trian", IMTOK_DEBUG="1").stderr


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path):
    (tmp_path / "notes.ckpt").write_text("hello world")
    done = imtok("train", "debug=tiny", f"ckpt_path={tmp_path}/notes.ckpt", f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "notes.ckpt: cannot be read" in done.stderr
    assert not (tmp_path / "run").exists()
