"""The front door: quick help without heavy imports, errors in one line."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from imtok.scripts.cli import COMMANDS, module_of

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


def test_the_table_names_every_command_and_its_line():
    files = {path.stem.replace("_", "-") for path in (ROOT / "scripts").glob("*.py")} - {"cli", "__init__"}
    assert set(COMMANDS) == files
    for name, line in COMMANDS.items():
        module = import_module(module_of(name))
        assert callable(module.main), name
        about = import_module(f"imtok.scripts.{name.replace('-', '_')}").__doc__
        assert about.partition("\n")[0] == line and line.endswith("."), name


def test_help_has_a_line_for_every_command():
    result = imtok("--help")
    assert result.returncode == 0
    for name, line in COMMANDS.items():
        assert any(shown.split() == [name, *line.split()] for shown in result.stdout.splitlines()), name


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)])
def test_help_loads_nothing_heavy(words):
    heavy = {"torch", "lightning", "numpy", "torchvision", "transformers", "wandb"}
    heavy |= {"hydra", "omegaconf", "yaml", "rich"} if len(words) == 1 else set()
    code = (
        "import sys; from imtok.scripts.cli import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as stop: code = stop.code\n"
        f"loaded = {heavy} & set(sys.modules)\n"
        "sys.exit(code or (f'loaded {loaded}' if loaded else 0))"
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
