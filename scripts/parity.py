"""Hold imtok against the stored outputs of published code, for any folder of parity fixtures."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.arguments import Arguments
from ..common.errors import UserError, one_line

if TYPE_CHECKING:
    from torch import Tensor

    from ..parity.rows import Result, Watched


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, "Tensor"], dict[str, "Tensor"]]:
    """config, io, weights (empty where there are none)."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: no config.json there; expected a folder in the format of shared/parity")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise UserError(f"{path}: expected a JSON object, found {type(config).__name__}")
        if not (folder / "io.safetensors").is_file():
            raise UserError(f"{folder}: no io.safetensors there, so nothing to compare with")
        weights = folder / "weights.safetensors"
        return config, load_file(folder / "io.safetensors"), load_file(weights) if weights.is_file() else {}
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot be read: {error}") from error


def _height_width(size: int | list[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def run_system(config: dict[str, Any], io: "Watched", weights: dict[str, "Tensor"]) -> tuple[Mapping, set[str], list]:
    """Outputs, keys used, and keys kept that are no tokenizer's, through the reader of `imtok import-weights`."""
    from imtok.tokenizers import released

    family = released.find(str(config["system"]))
    constructor = {k: v for part in ("constructor", "sizes", "size_overrides") for k, v in config.get(part, {}).items()}
    tokenizer, report = family.import_state(
        weights, image_size=_height_width(config.get("image_size", 256)), constructor=constructor
    )
    return family.outputs(tokenizer, io, constructor), set(report.used), report.beside


def run_function(config: dict[str, Any], io: "Watched", weights: dict[str, "Tensor"]) -> tuple[Mapping, set[str], list]:
    """The same for a pure function."""
    from imtok.parity.functions import FUNCTIONS
    from imtok.parity.rows import Watched

    name = str(config["function"])
    if name not in FUNCTIONS:
        raise UserError(f"function {name!r} is not known; known: {', '.join(sorted(FUNCTIONS))}")
    seen = Watched(weights)
    return FUNCTIONS[name](config, io, seen), seen.read, []


def check(folder: Path, *, experiment: str | None = None) -> "Result":
    """Compare every stored output of one folder. experiment: for a training step, another than that of its system."""
    from imtok.parity.rows import Result, Row, Watched, compare, is_training_step

    config, stored, weights = read_folder(folder)
    kind = next((k for k in ("system", "function") if k in config), None)
    if kind is None:
        raise UserError(f"{folder}/config.json: neither 'system' nor 'function' there, so nothing says what to build")
    result = Result(folder, str(config[kind]), num_weights=len(weights))
    io = Watched(stored)
    try:
        if is_training_step(config):
            from imtok.parity.training_rows import check_training_step

            return check_training_step(folder, config, stored, weights, experiment=experiment)
        run = run_system if kind == "system" else run_function
        outputs, used, result.beside = run(config, io, weights)
    except UserError:
        raise
    except Exception as error:  # a fixture that breaks us is a failed check, and the other folders still count
        if os.environ.get("IMTOK_DEBUG") == "1":
            raise
        result.rows.append(Row("(run)", False, f"{type(error).__name__}: {one_line(error)}"))
        return result
    result.unused_weights = sorted(set(weights) - used - set(result.beside))
    declared = set(config.get("outputs", ()))
    for name, tensor in stored.items():
        # A family may reach the same output in several ways: "indices" and "indices (end to end)".
        variants = [key for key in outputs if key == name or key.startswith(f"{name} (")]
        result.rows += [compare(key, outputs[key], tensor) for key in variants]
        if variants:
            continue
        if name == "image" or (name in io.read and name not in declared):
            result.inputs.append(name)
        else:
            result.rows.append(Row(name, False, "not computed"))
    if kind == "system":
        result.shows["forward"] = result.ok
    return result


def print_table(results: Sequence["Result"]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in ("folder", "output", "error", "tolerance", "ok"):
        numbers = title in ("error", "tolerance")
        table.add_column(title, justify="right" if numbers else "left", overflow="fold", no_wrap=title == "output")
    for result in results:
        for i, row in enumerate(result.rows):
            mark = "ok" if row.ok else "[red]FAILED[/red]"
            table.add_row(result.name if i == 0 else "", row.output, row.error, row.tolerance, mark)
        if result.num_weights:
            unused = result.unused_weights
            error = f"{len(unused)} of {result.num_weights} unused"
            error += f": {', '.join(unused[:3])} ..." if unused else ""
            error += f", {len(result.beside)} of its text tower or unused tail" if result.beside else ""
            table.add_row("", "weights", error, "all used", "[red]FAILED[/red]" if unused else "ok")
        if result.shows:
            words = [name if holds else f"[red]{name} does not[/red]" for name, holds in result.shows.items()]
            table.add_row("", "holds: " + ", ".join(words), "", "", "")
        if result.inputs:
            table.add_row("", "[dim]given: " + ", ".join(result.inputs) + "[/dim]", "", "", "")
    console = Console()
    longest = max((len(row.output) for result in results for row in result.rows), default=0)
    console.width = max(console.width, 120, 80 + longest)  # piped output keeps its columns, names of outputs stay whole
    console.print(table)


def fixtures_in(given: Path) -> list[Path]:
    """The folder itself, or the fixtures right below it."""
    if (given / "config.json").is_file():
        return [given]
    return sorted(file.parent for file in given.glob("*/config.json")) or [given]


def main(argv: Sequence[str]) -> int:
    parser = Arguments(
        "parity", str(__doc__), examples=["imtok parity ../shared/parity/vqgan", "imtok parity fixtures/*"]
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="holds config.json, io.safetensors and, with parameters, weights.safetensors",
    )
    parser.add_argument(
        "--experiment",
        metavar="NAME",
        help="for stored training steps: hold this experiment's recipe against them, not that of their system",
    )
    arguments = parser.parse_args(argv)

    results, refused = [], []
    folders = [found for given in arguments.folders for found in fixtures_in(given)]
    for folder in folders:
        try:
            results.append(check(folder, experiment=arguments.experiment))
        except (UserError, OSError) as error:
            refused.append(f"{folder}: {one_line(error)}" if str(folder) not in str(error) else one_line(error))
    if results:
        print_table(results)
    good = sum(result.ok for result in results)
    if len(folders) > 1:
        print(f"{good} of {len(folders)} folders hold")
    for line in refused[:-1]:
        print(f"imtok: {line}", file=sys.stderr)
    if refused:
        raise UserError(refused[-1])
    return 0 if good == len(results) else 1
