"""What the numbers were made with."""

import platform
from datetime import datetime, timezone

import torch
from torch import nn

from .. import __version__
from ..training.run_folder import git_facts, package_version

PACKAGES = ("torch", "torchvision", "torch-fidelity", "torchmetrics", "numpy")


def provenance(device: torch.device) -> dict:
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "imtok": __version__,
        "git": git_revision(),
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": "float32, TF32 off; moments float64",
    }


def git_revision() -> str | None:
    """Short hash, with `+changes` when the working tree differs; None for an installed wheel."""
    facts = git_facts()
    return facts and facts["commit"][:8] + ("+changes" if facts["changed"] else "")


def model_facts(tokenizer: nn.Module) -> dict:
    """Sizes that the module itself knows; the export's own facts come beside them.

    A decoder that samples says with what (sampler, steps, guidance, seed) by its `facts()`.
    """
    draws = getattr(getattr(tokenizer, "quantizer", None), "stochastic", False)
    decoder_facts = getattr(getattr(tokenizer, "decoder", None), "facts", None)
    return {
        "class": type(tokenizer).__name__,
        # None where there is nothing to say: the report leaves it out.
        "quantizer": "stochastic: it draws in eval mode too, so numbers vary from run to run" if draws else None,
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
