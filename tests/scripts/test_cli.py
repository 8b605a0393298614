"""The front door: quick help without heavy imports, errors in one line."""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from imtok.common.errors import UserError
from imtok.scripts.cli import COMMANDS, main, module_of

ROOT = Path(__file__).parents[2]

ASK_FOR_HELP = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
# One interpreter asks all: a heavy module that the first answer loads shows in the rest as well.
LOADED = """
import contextlib, io, json, sys
from imtok.scripts.cli import main
heavy = {'torch', 'lightning', 'numpy', 'torchvision', 'transformers', 'wandb'}
answers = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        try: code = main(words)
        except SystemExit as stop: code = stop.code
    answers.append([words, code or 0, sorted(heavy & set(sys.modules)), said.getvalue()])
print(json.dumps(answers))
"""


def test_the_table_names_every_command_and_its_line():
    files = {path.stem.replace("_", "-") for path in (ROOT / "scripts").glob("*.py")} - {"cli", "__init__"}
    assert set(COMMANDS) == files
    for name, line in COMMANDS.items():
        assert callable(import_module(module_of(name)).main), name
        about = import_module(f"imtok.scripts.{name.replace('-', '_')}").__doc__ or ""
        assert about.partition("\n")[0] == line and line.endswith("."), name


def test_help_has_a_line_for_every_command(capsys):
    assert main(["--help"]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    for name, line in COMMANDS.items():
        assert [name, *line.split()] in shown, name


def test_help_loads_nothing_heavy():
    command = [sys.executable, "-c", LOADED, json.dumps(ASK_FOR_HELP)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    answers = json.loads(result.stdout)
    assert len(answers) == len(ASK_FOR_HELP) > 12
    for words, code, loaded, said in answers:
        assert (code, loaded) == (0, []) and "imtok" in said, words


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian"], "did you mean 'train'?"),
        (["encode", "x", "--modle", "y"], ""),
        (["train", "--data.root", "x"], "key=value"),
    ],
)
def test_unknown_command_and_flag_are_one_line(words, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    said = capsys.readouterr().err
    assert stopped.value.code == 1
    assert said.startswith("imtok: ") and said.count("\n") == 1 and says in said


def test_debug_gives_the_traceback(monkeypatch):
    monkeypatch.setenv("IMTOK_DEBUG", "1")
    with pytest.raises(UserError, match="trian"):
        main(["trian"])


def test_a_run_that_cannot_begin_leaves_no_folder(tmp_path):
    """In a process of its own: Hydra keeps one state a process, and the exit code is part of the answer."""
    (tmp_path / "notes.ckpt").write_text("hello world")
    words = ["train", "debug=tiny", f"ckpt_path={tmp_path}/notes.ckpt", f"hydra.run.dir={tmp_path}/run"]
    command = [sys.executable, "-m", "imtok.scripts.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "notes.ckpt: cannot be read" in done.stderr
    assert not (tmp_path / "run").exists()
