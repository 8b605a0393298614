"""Reading published names, and those that several models share: SigLIP's and CLIP's towers, attention projections."""

import re
from collections.abc import Iterable, Mapping

import torch

from ...common.errors import UserError
from .base import State


def renamed(theirs: str, names: Mapping[str, str]) -> str | None:
    """`theirs` with the first prefix that is in `names` replaced by ours; None where none is."""
    prefix = next((p for p in names if theirs.startswith(p)), None)
    return None if prefix is None else names[prefix] + theirs.removeprefix(prefix)


def count_of(state: Iterable[str], stem: str) -> int:
    """How many numbered parts `stem.N` there are."""
    numbers = [int(m[1]) for m in map(re.compile(re.escape(stem) + r"\.(\d+)\.").match, state) if m]
    if not numbers:
        raise KeyError(f"{stem}.0")
    return 1 + max(numbers)


PROJECTION_NAMES = {
    "norm1.": "norm_attention.",
    "norm2.": "norm_mlp.",
    "norm3.": "norm_linear.",
    "attn.proj.": "merge.",
    "attn.": "",
    "proj.": "linear.",
    "mlp.": "mlp.",
}


def projection_names(places: Mapping[str, str]) -> dict[str, str]:
    """Prefixes of the tensors of UniTok's AttnProjection; places: {where it stands there: where it stands here}."""
    inner = PROJECTION_NAMES.items()
    return {there + theirs: here + ours for there, here in places.items() for theirs, ours in inner}


def check_zero(state: State, ending: str) -> set[str]:
    """Tensors with this ending, which must be zeros: buffers that stand in for a bias that is not there."""
    found = {name for name in state if name.endswith(ending)}
    for name in found:
        if torch.any(state[name]):
            raise UserError(f"the file's {name} is not zero, and the published layer has no such bias")
    return found


CLIP_NAMES = {
    "class_embedding": "cls_token",
    "positional_embedding": "pos_embed",
    "conv1.": "patch_embed.proj.",
    "ln_pre.": "norm_pre.",
    "ln_post.": "norm.",
}
CLIP_BLOCK_NAMES = {
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
SIGLIP_NAMES = {
    "embeddings.patch_embedding.": "patch_embed.proj.",
    "embeddings.position_embedding.weight": "pos_embed",
    "post_layernorm.": "norm.",
}
SIGLIP_BLOCK_NAMES = {
    "self_attn.qkv.": "attn.qkv.",
    "self_attn.out_proj.": "attn.proj.",
    "layer_norm1.": "norm1.",
    "layer_norm2.": "norm2.",
    "mlp.": "mlp.",
}


def clip_name(theirs: str) -> str | None:
    """Of a tensor of OpenAI's VisionTransformer, in timm's words."""
    return _tower_name(theirs, "transformer.resblocks.", CLIP_NAMES, CLIP_BLOCK_NAMES)


def siglip_name(theirs: str) -> str | None:
    """Of a tensor of transformers' SiglipVisionModel, its q, k and v joined, in timm's words."""
    return _tower_name(theirs, "encoder.layers.", SIGLIP_NAMES, SIGLIP_BLOCK_NAMES)


def siglip_joined(state: State, prefix: str) -> dict[str, list[str]]:
    """q, k and v of every layer below `prefix`, to be joined as qkv."""
    joined = {}
    for name in state:
        if name.startswith(prefix) and (m := re.fullmatch(r"(.*\.self_attn)\.q_proj\.(weight|bias)", name)):
            joined[f"{m[1]}.qkv.{m[2]}"] = [f"{m[1]}.{part}_proj.{m[2]}" for part in "qkv"]
    return joined


def _tower_name(theirs: str, blocks: str, top: dict[str, str], inner: dict[str, str]) -> str | None:
    if theirs.startswith(blocks):
        number, _, rest = theirs.removeprefix(blocks).partition(".")
        ours = renamed(rest, inner)
        return None if ours is None else f"blocks.{number}.{ours}"
    return renamed(theirs, top)
