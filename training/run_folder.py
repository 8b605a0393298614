"""Provenance files of a run: its config, its overrides, its environment."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..common.console import is_first_rank
from ..common.errors import UserError
from ..common.files import write_text
from ..common.provenance import environment


def prepare(
    folder: Path, *, config: Mapping[str, Any], overrides: Sequence[str], resolved: Mapping[str, Any] | None = None
) -> None:
    """Write the three files; a folder that holds something is used only to go on with its own run.

    resolved: settings that were `auto`, as this machine has them.
    """
    if not is_first_rank():
        return
    checkpoint = config["ckpt_path"]
    own = checkpoint is not None and Path(checkpoint).parent.parent == folder.absolute()
    if not own and folder.is_dir() and any(folder.iterdir()):
        remedy = "ckpt_path=last goes on with it, " if (folder / "checkpoints" / "last.ckpt").exists() else ""
        raise UserError(
            f"hydra.run.dir={folder}: there is a run or something else in it; {remedy}or choose an empty folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
    write_text(folder / "overrides.yaml", yaml.safe_dump(list(overrides), allow_unicode=True))
    facts = environment() | {"resolved": dict(resolved or {})}
    write_text(folder / "environment.json", json.dumps(facts, indent=2) + "\n")
