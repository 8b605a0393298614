"""Latent diffusion's autoencoder in diffusers' files (AutoencoderKL): its sizes and its names, as ours.

The network is VQGAN's with attention at the lowest resolution only, so our convolutional parts hold its weights and
diffusers itself is not needed.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

ATTENTION_NAMES = {
    "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "project",
    "query": "q", "key": "k", "value": "v", "proj_attn": "project",  # files from before diffusers 0.18
}  # fmt: skip
TOP_NAMES = {"quant_conv": "encoder.project", "post_quant_conv": "decoder.project"}


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Constructor arguments of VAESpace, read off the shapes."""
    channels = state["encoder.conv_in.weight"].shape[0]
    levels = _count(state, r"encoder\.down_blocks\.(\d+)\.")
    widths = [state[f"encoder.down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(levels)]
    return {
        "channels": state["post_quant_conv.weight"].shape[0],
        "base_channels": channels,
        "channel_multipliers": [width // channels for width in widths],
        "blocks_per_level": _count(state, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
    }


def our_names(names: Iterable[str]) -> dict[str, str]:
    """{diffusers' name: name in VAESpace}; names left out are not understood."""
    known = list(names)
    found = {name: _our_name(name, known) for name in known}
    return {name: ours for name, ours in found.items() if ours is not None}


def fitted(our_name: str, tensor: Tensor) -> Tensor:
    """Attention's linear layers there are 1x1 convolutions here."""
    linear = re.search(r"\.middle\.1\.(q|k|v|project)\.weight$", our_name) and tensor.ndim == 2
    return tensor[:, :, None, None] if linear else tensor


def _our_name(theirs: str, known: list[str]) -> str | None:
    if m := re.match(r"(encoder|decoder)\.mid_block\.resnets\.([01])\.(.+)", theirs):
        return f"{m[1]}.middle.{2 * int(m[2])}.{_inner(m[3])}"
    if m := re.match(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)", theirs):
        return f"{m[1]}.middle.1.{ATTENTION_NAMES[m[2]]}.{m[3]}" if m[2] in ATTENTION_NAMES else None
    if m := re.match(r"((encoder)\.down|(decoder)\.up)_blocks\.(\d+)\.(resnets|\w+samplers)\.(\d+)\.(.+)", theirs):
        stem = f"{m[2] or m[3]}.levels.{m[4]}"
        if m[5] == "resnets":
            return f"{stem}.{m[6]}.{_inner(m[7])}"
        blocks = _count(known, rf"{re.escape(m[1])}_blocks\.{m[4]}\.resnets\.(\d+)\.")
        return f"{stem}.{blocks}.{m[7]}"
    if m := re.match(r"(quant_conv|post_quant_conv)\.(weight|bias)$", theirs):
        return f"{TOP_NAMES[m[1]]}.{m[2]}"
    if m := re.match(r"(encoder|decoder)\.(conv_in|conv_norm_out|conv_out)\.(weight|bias)$", theirs):
        return f"{m[1]}.{m[2].replace('conv_norm_out', 'norm_out')}.{m[3]}"
    return None


def _inner(name: str) -> str:
    return name.replace("conv_shortcut", "skip")


def _count(names: Iterable[str], pattern: str) -> int:
    return 1 + max((int(m[1]) for m in map(re.compile(pattern).match, names) if m), default=-1)
