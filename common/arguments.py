"""Flags of the commands: errors in one line, examples under the help, the choices that several commands share.

What has a config takes key=value, what has none takes flags. Each takes the other's spelling of what both have.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import UserError, did_you_mean

if TYPE_CHECKING:  # torch is not imported to print help
    import torch


class Arguments(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError (one line, exit 1) instead of printing its usage.

    Every flag may be written as a setting: `model=DIR`, `image_size=[64,96]`, `overwrite=true`.
    """

    def __init__(self, command: str, description: str, *, examples: Sequence[str] = ()) -> None:
        super().__init__(
            prog=f"imtok {command}",
            description=description,
            epilog="examples:\n" + "\n".join(f"  {line}" for line in examples) if examples else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([flag for word in words for flag in self._as_flags(word)], namespace)

    def _as_flags(self, word: str) -> list[str]:
        key, is_set, value = word.partition("=")
        flag = f"--{re.sub('[_.]', '-', key)}"
        action = self._option_string_actions.get(flag)
        if not is_set or action is None:
            return [word]
        if action.nargs == 0:
            if value not in ("true", "false"):
                raise UserError(f"{word}: true or false")
            return [flag] if value == "true" else []
        if action.nargs is not None:
            return [flag, *value.strip("[]").split(",")]
        return [f"{flag}={value}"]

    def error(self, message: str) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (-\S+)", message)
        if unknown:
            message += f"; {did_you_mean(unknown.group(1).split('=')[0], self._option_string_actions)}"
        raise UserError(f"{message} (`{self.prog} --help` lists what it takes)")


def add_model(parser: argparse.ArgumentParser, help: str) -> None:
    """--model and --trust."""
    parser.add_argument("--model", required=True, metavar="DIR", help=help)
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    text = "packages besides imtok whose classes the tokenizer may name; their code runs (default: none)"
    parser.add_argument("--trust", "--trusted", default="", metavar="PACKAGE[,PACKAGE]", help=text)


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


def flags_as_settings(argv: Sequence[str], keys: Mapping[str, str]) -> list[str]:
    """`--model DIR` or `--model=DIR` as `model=DIR`, for commands that have a config. keys: {"--model": "model"}."""
    words, rest = [], list(argv)
    while rest:
        flag, is_set, value = rest.pop(0).partition("=")
        if flag not in keys:
            words.append(f"{flag}{is_set}{value}")
            continue
        if not is_set and not rest:
            raise UserError(f"{flag}: needs a value")
        value = value if is_set else rest.pop(0)
        words.append(f"{keys[flag]}='{value}'")
    return words


def take_out(words: Sequence[str], own: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """(the settings that a command has besides its config, the words for the config)."""
    pairs = [word.partition("=") for word in words]
    return {k: v for k, _, v in pairs if k in own}, ["".join(pair) for pair in pairs if pair[0] not in own]


def whole_number(settings: Mapping[str, str], key: str, default: int) -> int:
    """A `key=7` of the command's own settings."""
    text = settings.get(key, str(default))
    if not text.isdigit() or int(text) == 0:
        raise UserError(f"{key}={text}: expected a whole number above 0")
    return int(text)
