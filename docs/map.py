"""Write the map in CONTRIBUTING.md: every Python file with the first sentence of its docstring (`make map`)."""

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
BEGIN, END = "<!-- map: written by `make map` -->", "<!-- end of map -->"
FIRST = ("", "configs", "tokenizers", "tokenizers/encoders", "tokenizers/quantizers", "tokenizers/layers",
         "tokenizers/released", "decoders", "losses", "losses/adversarial", "training", "training/callbacks", "data",
         "eval", "scripts", "docs")  # fmt: skip


def first_sentence(file: Path) -> str:
    text = " ".join((ast.get_docstring(ast.parse(file.read_text())) or "").split("\n\n")[0].split())
    return re.split(r"(?<! al)(?<! eq)\.\s", text, maxsplit=1)[0].rstrip(".")


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(f) for f in listed.split() if not f.startswith("tests/") and (ROOT / f).is_file()]


def written_map(files: list[Path]) -> str:
    folders: dict[str, list[Path]] = {}
    for file in files:
        folders.setdefault("" if file.parent == Path(".") else file.parent.as_posix(), []).append(file)
    lines: list[str] = []
    for folder in sorted(folders, key=lambda f: (FIRST.index(f) if f in FIRST else len(FIRST), f)):
        lines += ["", f"**`{folder}/`**" if folder else "**the root**", ""]
        lines += [f"- `{file.name}`: {first_sentence(ROOT / file)}" for file in sorted(folders[folder])]
    return "\n".join(lines) + "\n\n"


def with_map(page: str, files: list[Path]) -> str:
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + "\n" + written_map(files) + END + after


if __name__ == "__main__":
    PAGE.write_text(with_map(PAGE.read_text(), tracked_files()))
