"""Names that several published models share: SigLIP's and CLIP's towers, attention projections, tables of zeros."""

import re

import torch

from ...configs.errors import UserError
from .base import State

PROJECTION_NAMES = {
    "norm1.": "norm_attention.",
    "norm2.": "norm_mlp.",
    "norm3.": "norm_linear.",
    "attn.proj.": "merge.",
    "attn.": "",
    "proj.": "linear.",
    "mlp.": "mlp.",
}


def projection_name(theirs: str) -> str:
    """Of a tensor in UniTok's AttnProjection."""
    prefix = next(p for p in PROJECTION_NAMES if theirs.startswith(p))
    return PROJECTION_NAMES[prefix] + theirs.removeprefix(prefix)


def count_of(state: State, stem: str) -> int:
    """How many numbered parts `stem.N` there are."""
    numbers = [int(m[1]) for m in map(re.compile(re.escape(stem) + r"\.(\d+)\.").match, state) if m]
    if not numbers:
        raise KeyError(f"{stem}.0")
    return 1 + max(numbers)


def check_zero(state: State, ending: str) -> set[str]:
    """Tensors with this ending, which must be zeros: buffers that stand in for a bias that is not there."""
    found = {name for name in state if name.endswith(ending)}
    for name in found:
        if torch.any(state[name]):
            raise UserError(f"the file's {name} is not zero, and the published layer has no such bias")
    return found
