"""Versions, commit and hardware that a run or a report was made with."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from .console import launched_processes

MEASURE_WITH = ("torch", "torchvision", "torch-fidelity", "torchmetrics", "numpy")
OTHERS = ("lightning", "vector-quantize-pytorch", "hydra-core", "omegaconf", "safetensors", "huggingface-hub", "pillow")


def provenance(device: torch.device) -> dict:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "imtok": __version__,
        "git": git_revision(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in MEASURE_WITH},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": "float32, TF32 off; moments float64",
    }


def git_revision() -> str | None:
    """Short hash, with `+changes` when the working tree differs; None for an installed wheel."""
    facts = git_facts()
    return None if facts is None else facts["commit"][:8] + ("+changes" if facts["changed"] else "")


def model_facts(tokenizer: Any) -> dict:
    """Sizes that the module itself knows; the export's own facts come beside them.

    A decoder that samples says with what (sampler, steps, guidance, seed) by its `facts()`.
    """
    draws = getattr(getattr(tokenizer, "quantizer", None), "stochastic", False)
    decoder_facts = getattr(getattr(tokenizer, "decoder", None), "facts", None)
    parts = dict(tokenizer.named_children())
    return {
        "class": type(tokenizer).__name__,
        # None where there is nothing to say: the report leaves it out.
        "quantizer": "stochastic: it draws in eval mode too, so numbers vary from run to run" if draws else None,
        "parameters": sum(p.numel() for p in tokenizer.parameters()),
        "parameters_by_part": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        "parts": {name: type(part).__name__ for name, part in parts.items()},
        "image_size": list(tokenizer.image_size),
        "tokens": tokenizer.num_tokens,
        "codebook_size": tokenizer.codebook_size,
        "bits_per_image": tokenizer.bits_per_image,
        "decoder_facts": dict(decoder_facts()) if decoder_facts else {},
    }


def environment() -> dict[str, Any]:
    return {
        "imtok": __version__,
        "git": git_facts(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in (*MEASURE_WITH, *OTHERS)},
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "processes": launched_processes(),
        "command": sys.argv,
    }


def git_facts() -> dict[str, Any] | None:
    """Of the clone that imtok runs from; None for an installed wheel."""
    root = Path(__file__).parent.parent
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        return subprocess.check_output(["git", "-C", root, *words], stderr=subprocess.DEVNULL, text=True, timeout=5)

    try:
        commit, changes = git("rev-parse", "HEAD").strip(), git("status", "--porcelain", "--untracked-files=no")
        return {"commit": commit, "changed": bool(changes)}
    except (OSError, subprocess.SubprocessError):
        return None


def package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
