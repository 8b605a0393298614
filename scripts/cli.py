"""`imtok COMMAND ...`: the commands and the one line that each prints; errors in one line."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

# What people meet first stands first. A command is a module with `main(argv) -> int`, imported when it is called.
COMMANDS = {
    "train": "Train a tokenizer, then export it, evaluate it and write its report.",
    "evaluate": "Measure a tokenizer under a named protocol: metrics.json, report.md and report.html.",
    "export": "Write the inference folder of a run or a training checkpoint, when training did not get to it.",
    "encode": "Turn images into tokens: a folder of images (any depth) to packed shards, or to what AR trainers read.",
    "decode": "Turn tokens back into images: a token store to PNG files named after the images they came from.",
    "import-weights": "Read a checkpoint that others published into an imtok tokenizer folder.",
    "recipes": "List every experiment: paper, tokens, codebook, parameters, published rFID, what is proven.",
    "plan": "Say what a training run will need before it starts: parameters, FLOPs, memory, tokens.",
    "doctor": "Check this machine, or check a run by its metrics.csv and name the YAML key that would help.",
    "parity": "Hold imtok against the stored outputs of published code, for any folder of parity fixtures.",
    "benchmark": "Measure speed here: whole update against bare modules, evaluation, JPEG loading, quantizers.",
    "quantize": "Make a discrete tokenizer of a continuous one (kl, identity), without training: TokenBridge's method.",
    "train-teacher": "Train a small teacher on the labels of a data set, and save it as the weights its YAML names.",
}

EXAMPLES = """\
examples:
  imtok train experiment=quickstart
  imtok encode photos/ --model runs/quickstart/LATEST/tokenizer --out tokens/

`imtok COMMAND --help` says what a command takes. IMTOK_DEBUG=1 shows the traceback of an error."""


def help_text() -> str:
    from .. import __version__

    lines = [
        f"imtok {__version__}: train, export and evaluate discrete image tokenizers",
        "",
        "usage: imtok COMMAND ...",
        "",
    ]
    lines += [f"  {name:<15} {line}" for name, line in COMMANDS.items()]
    return "\n".join([*lines, "", EXAMPLES])


def module_of(command: str) -> str:
    return "imtok.train" if command == "train" else f"imtok.scripts.{command.replace('-', '_')}"


class _Closed(Exception):
    """Standard output was closed by its reader."""


def main(argv: Sequence[str] | None = None) -> int:
    try:
        code = run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except (BrokenPipeError, _Closed):  # `imtok recipes | head`: nobody reads on
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
        if name not in COMMANDS:
            raise UserError(
                f"there is no command {argv[0]!r}; {did_you_mean(name, COMMANDS)} (`imtok --help` lists them)"
            )
        module = import_module(module_of(name))
        try:
            return int(module.main(argv[1:]) or 0)
        except BrokenPipeError as closed:
            raise _Closed from closed  # as an OSError it would be printed as an error
    return 1


if __name__ == "__main__":
    sys.exit(main())
