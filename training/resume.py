"""ckpt_path=last and ckpt_path=FILE: which folder, which file, and the overrides that the run was started with.

Runs before Hydra does, because the run folder has to be known by then. Imports no torch.
"""

import ast
from collections.abc import Sequence
from pathlib import Path

import yaml

from ..common.console import say
from ..common.errors import UserError
from ..configs.compose import override_keys, quoted
from .checkpoint_paths import is_checkpoint
from .recorded import CONFIGS, check_recorded, printable

NOT_REPEATED = ("ckpt_path", "hydra.run.dir", "trust")  # of recorded overrides: where that run was, not what it was
SAME_DATA = ("data", "data.root", "data.split_file")  # a change of one of these ends the recorded split


def arguments_for_resume(arguments: Sequence[str]) -> list[str]:
    """The command line with `last` replaced, the run's folder named, and its recorded overrides put first."""
    trust = value_of("trust", arguments)
    if trust not in (None, "true", "false"):
        raise UserError(f"trust={trust}: true or false; true lets ckpt_path take over any recorded override")
    arguments = [a for a in arguments if override_keys([a]) != ["trust"]]
    wanted = value_of("ckpt_path", arguments)
    if wanted in (None, "null"):
        return arguments
    named = value_of("hydra.run.dir", arguments)
    if wanted == "last":
        file = _last_of(Path(named).expanduser()) if named else _newest(experiment_of(arguments))
        if not named:
            say(f"ckpt_path=last: going on with {file.parent.parent}")
    else:
        file = Path(wanted).expanduser()
        if file.is_dir() and not is_checkpoint(file):
            file = _last_of(file)
        if not is_checkpoint(file):
            raise UserError(f"ckpt_path={wanted}: no such file; ckpt_path=last takes the newest run of the experiment")
    file = file.absolute()
    run = file.parent.parent
    before = recorded_overrides(file)
    split = run / "split.json"
    same = all(value_of(key, arguments) in (None, value_of(key, before)) for key in SAME_DATA)
    same_split = [f"data.split_file={quoted(split)}"] if same and split.is_file() else []
    left_out = {*override_keys(arguments), *override_keys(same_split)}
    if trust != "true":  # the whole record: what is left out of it below may have kept the rest in check
        check_recorded(before, source=run / "overrides.yaml")
    recorded = [o for o in before if left_out.isdisjoint(override_keys([o]))]
    if recorded:
        say(f"ckpt_path: taken over from overrides.yaml of {run}: {printable(' '.join(recorded))}")
    places = {"ckpt_path": file} | ({"hydra.run.dir": run} if wanted == "last" else {})
    kept = [a for a in arguments if places.keys().isdisjoint(override_keys([a]))]
    flags_first = next((i for i, a in enumerate(kept) if not a.startswith("-") and "=" in a), len(kept))
    settings = [f"{key}={quoted(path)}" for key, path in places.items()]
    return [*kept[:flags_first], *recorded, *kept[flags_first:], *same_split, *settings]


def value_of(key: str, arguments: Sequence[str]) -> str | None:
    """The last `key=value`, without quotes; None where it is not given."""
    found = [a.partition("=")[2] for a in arguments if override_keys([a]) == [key] and "=" in a]
    if not found:
        return None
    value = found[-1].strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        try:
            return str(ast.literal_eval(value))
        except (SyntaxError, ValueError):
            return value[1:-1]
    return value


def experiment_of(arguments: Sequence[str]) -> str:
    """The folder below runs/: name=..., or the experiment's."""
    defaults = yaml.safe_load((CONFIGS / "train.yaml").read_text())["defaults"]
    default = next(entry["experiment"] for entry in defaults if isinstance(entry, dict) and "experiment" in entry)
    return value_of("name", arguments) or value_of("experiment", arguments) or default


def recorded_overrides(file: Path) -> list[str]:
    """Less where that run was and how far it was trusted."""
    record = file.parent.parent / "overrides.yaml"
    try:
        found = yaml.safe_load(record.read_text()) or []
    except FileNotFoundError:
        return []
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise UserError(f"ckpt_path: {record} is damaged; restore it, or take it away and give all settings again")
    return [o for o in map(str, found) if not set(NOT_REPEATED).intersection(override_keys([o]))]


def _last_of(folder: Path) -> Path:
    file = folder / "checkpoints" / "last.ckpt"
    if not is_checkpoint(file):
        raise UserError(
            f"ckpt_path=last: {folder} has no checkpoints/last.ckpt; name a run folder by hydra.run.dir=DIR"
        )
    return file


def _newest(name: str) -> Path:
    found = sorted((Path("runs") / name).glob("*/checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UserError(
            f"ckpt_path=last: no run of {name!r} under runs/{name} has a checkpoint; "
            "name one by hydra.run.dir=DIR, ckpt_path=FILE, or another experiment=NAME"
        )
    return found[-1]
