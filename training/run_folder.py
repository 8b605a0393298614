"""What a run leaves behind to be understood later: its config, its overrides, its surroundings."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from .. import __version__
from ..configs.errors import UserError
from .atomic_file import write_text
from .reporting import is_first_rank

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "torch-fidelity",
    "vector-quantize-pytorch",
    "hydra-core",
    "omegaconf",
    "safetensors",
    "huggingface-hub",
    "numpy",
    "pillow",
)


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


def environment() -> dict[str, Any]:
    import torch

    return {
        "imtok": __version__,
        "git": git_facts(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "command": sys.argv,
    }


def git_facts() -> dict[str, Any] | None:
    """Of the clone that imtok runs from; None for an installed wheel."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "changed": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
