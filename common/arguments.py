"""Flags of the commands: errors in one line, examples under the help, the choices that several commands share."""

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from .errors import UserError, did_you_mean

if TYPE_CHECKING:  # torch is not imported to print help
    import torch


class Arguments(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError (one line, exit 1) instead of printing its usage."""

    def __init__(self, command: str, description: str, *, examples: Sequence[str] = ()) -> None:
        super().__init__(
            prog=f"imtok {command}",
            description=description,
            epilog="examples:\n" + "\n".join(f"  {line}" for line in examples) if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (-\S+)", message)
        if unknown:
            message += f"; {did_you_mean(unknown.group(1).split('=')[0], self._option_string_actions)}"
        raise UserError(f"{message} (`{self.prog} --help` lists what it takes)")


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto (default), cpu, cuda, cuda:1, mps")


def find_device(name: str) -> "torch.device":
    """The device that --device names; `auto` takes CUDA where there is one."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"--device={name}: not a device of torch; known: auto, cpu, cuda, cuda:1, mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device={name}: torch sees no CUDA device here; use --device=cpu or --device=auto")
    return device


def positive(text: str) -> int:
    """argparse type: a whole number above zero."""
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def split_overrides(argv: Sequence[str], *, command: str, own: Sequence[str] = ()) -> tuple[dict[str, str], list[str]]:
    """`key=value` words of a command into its own settings and overrides of the config.

    own: keys that the command takes itself; everything else goes to the config.
    """
    mine: dict[str, str] = {}
    overrides: list[str] = []
    for word in argv:
        key, equals, value = word.partition("=")
        if not equals and not word.startswith("~"):
            raise UserError(f"{word!r}: `imtok {command}` takes key=value, such as experiment=quickstart")
        if key in own:
            mine[key] = value
        else:
            overrides.append(word)
    return mine, overrides


def whole_number(settings: Mapping[str, str], key: str, default: int) -> int:
    """A `key=7` of the command's own settings."""
    text = settings.get(key, str(default))
    if not text.isdigit() or int(text) == 0:
        raise UserError(f"{key}={text}: expected a whole number above 0")
    return int(text)
