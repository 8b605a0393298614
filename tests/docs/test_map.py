"""`make map` has a line for every Python file."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_every_file_has_a_line_in_the_map() -> None:
    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("not a git clone, so there is no list of files")
    spec = importlib.util.spec_from_file_location("docs_map", ROOT / "docs" / "map.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    files = module.tracked_files()
    assert not [f for f in files if not module.first_sentence(ROOT / f)], "no docstring, so no line in the map"
    page = module.written_map(files)
    assert page.count("\n- `") == len(files) > 50
    assert "**`losses/`**" in page and "- `train.py`: Train a tokenizer" in page
