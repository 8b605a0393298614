"""Write docs/map.md: every Python file with the first sentence of its docstring (`make map`)."""

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "map.md"


def first_sentence(file: Path) -> str:
    text = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].split())
    return re.split(r"(?<! al)(?<! eq)\.\s", text, maxsplit=1)[0].rstrip(".")


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(f) for f in listed.split() if not f.startswith("tests/") and (ROOT / f).is_file()]


def written_map(files: list[Path]) -> str:
    folders: dict[str, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent.as_posix(), []).append(file)
    lines = ["# Every file, by its first sentence"]
    for folder, inside in sorted(folders.items()):
        lines += ["", f"**`{folder}/`**" if folder != "." else "**the root**", ""]
        lines += [f"- `{file.name}`: {first_sentence(ROOT / file)}" for file in sorted(inside)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(written_map(tracked_files()))
