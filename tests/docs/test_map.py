"""The map in CONTRIBUTING.md names every Python file, as its docstring has it."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_map_is_current() -> None:
    if subprocess.run(["git", "rev-parse"], cwd=ROOT, capture_output=True).returncode:
        pytest.skip("not a git clone, so there is no list of files")
    spec = importlib.util.spec_from_file_location("docs_map", ROOT / "docs" / "map.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "CONTRIBUTING.md").read_text()
    files = module.tracked_files()
    assert len(files) > 50
    assert all(module.first_sentence(ROOT / f) for f in files), "a file without a docstring has no line in the map"
    assert page == module.with_map(page, files), "run `make map`"
