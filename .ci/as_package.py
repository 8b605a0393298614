"""Run a tool over the tree as an ordinary package: `python .ci/as_package.py mypy -p imtok`.

The folders directly under the root carry no `__init__.py` (CONTRIBUTING.md, "The import trap"), which mypy and
import-linter need. They see a folder of links in which every one has it.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_PRODUCT = {"tests", "docs", "runs", "build", "dist"}


def main(words: list[str]) -> int:
    with tempfile.TemporaryDirectory() as place:
        package = Path(place) / "imtok"
        package.mkdir()
        for file in ROOT.glob("*.py"):
            (package / file.name).symlink_to(file)
        for room in ROOT.iterdir():
            if room.name.isidentifier() and room.name not in NOT_PRODUCT and any(room.glob("**/*.py")):
                (package / room.name).mkdir()
                (package / room.name / "__init__.py").touch()
                for entry in room.iterdir():
                    if entry.name not in ("__init__.py", "__pycache__"):
                        (package / room.name / entry.name).symlink_to(entry)
        (Path(place) / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
        tool = Path(sys.executable).parent / words[0]
        return subprocess.run([tool, *words[1:]], cwd=place).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
