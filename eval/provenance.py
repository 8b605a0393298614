"""What the numbers were made with."""

import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

from .. import __version__

PACKAGES = ("torch", "torchvision", "torch-fidelity", "torchmetrics", "numpy")


def provenance(device: torch.device) -> dict:
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "imtok": __version__,
        "git": git_revision(Path(__file__).parent),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": "float32, TF32 off; moments float64",
    }


def git_revision(folder: Path) -> str | None:
    """Short hash, with `+changes` when the working tree differs; None outside a repository."""
    try:
        command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=8", "--dirty=+changes", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def model_facts(tokenizer: nn.Module) -> dict:
    """Sizes that the module itself knows; the export's own facts come beside them.

    A decoder that samples says with what (sampler, steps, guidance, seed) by its `facts()`.
    """
    decoder_facts = getattr(getattr(tokenizer, "decoder", None), "facts", None)
    return {
        "class": type(tokenizer).__name__,
        "parameters": sum(p.numel() for p in tokenizer.parameters()),
        "parameters_by_part": {
            name: sum(p.numel() for p in part.parameters()) for name, part in tokenizer.named_children()
        },
        "parts": {name: type(part).__name__ for name, part in tokenizer.named_children()},
        "image_size": list(tokenizer.image_size),
        "tokens": tokenizer.num_tokens,
        "codebook_size": tokenizer.codebook_size,
        "bits_per_image": tokenizer.bits_per_image,
        "decoder_facts": dict(decoder_facts()) if decoder_facts else {},
    }
