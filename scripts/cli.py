"""`imtok COMMAND ...` runs scripts/COMMAND.py; a command is a file here with a docstring and `main(argv) -> int`."""

import ast
import os
import sys
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

FOLDER = Path(__file__).parent
# The order of the help: what people meet first stands first, commands not named here follow by the alphabet.
ORDER = ("train", "evaluate", "export", "encode", "decode", "import-weights", "recipes", "plan", "doctor", "parity")

EXAMPLES = """\
examples:
  imtok train experiment=quickstart
  imtok encode photos/ --model runs/quickstart/LATEST/tokenizer --out tokens/

`imtok COMMAND --help` says what a command takes. IMTOK_DEBUG=1 shows the traceback of an error."""


@cache
def commands() -> dict[str, str]:
    """{command: its line of help}, read from the files without importing any of them."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        has_main = any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
        if has_main and path.stem != "cli":
            line = (ast.get_docstring(tree) or "").partition("\n")[0]
            found[path.stem.replace("_", "-")] = line
    return dict(sorted(found.items(), key=lambda item: (ORDER.index(item[0]) if item[0] in ORDER else 99, item[0])))


def help_text() -> str:
    from .. import __version__

    lines = [
        f"imtok {__version__}: train, export and judge discrete image tokenizers",
        "",
        "usage: imtok COMMAND ...",
        "",
    ]
    lines += [f"  {name:<15} {line}" for name, line in commands().items()]
    return "\n".join([*lines, "", EXAMPLES])


class _Closed(Exception):
    """Standard output was closed by its reader."""


def main(argv: Sequence[str] | None = None) -> int:
    try:
        code = run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except (
        BrokenPipeError,
        _Closed,
    ):  # `imtok recipes | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(help_text())
        return 0
    if argv[0] in ("-V", "--version"):
        from .. import __version__

        print(f"imtok {__version__}")
        return 0

    from ..common.errors import UserError, did_you_mean, errors_as_one_line

    with errors_as_one_line():
        name = argv[0].replace("_", "-")
        if name not in commands():
            raise UserError(
                f"there is no command {argv[0]!r}; {did_you_mean(name, commands())} (`imtok --help` lists them)"
            )
        module = import_module(f"imtok.scripts.{name.replace('-', '_')}")
        try:
            return int(module.main(argv[1:]) or 0)
        except BrokenPipeError as closed:
            raise _Closed from closed  # an OSError would be told as an error
    return 1


if __name__ == "__main__":
    sys.exit(main())
