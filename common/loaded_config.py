"""What a config that came with weights may ask for: its own classes are checked in build.py, its arguments here.

Whoever wrote it may be a stranger. It chooses no file, no address and no argument of another library's own.
"""

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from .errors import UserError, did_you_mean
from .value_types import annotations_of, what_it_takes

TEACHERS = Path(__file__).parents[1] / "configs" / "teacher"
# Arguments that go to another library as they are, and the names in them that only say how large a network is and how
# it computes. timm takes pretrained_cfg, cache_dir and checkpoint_path by the same door.
# fmt: off
OPEN_MAPPINGS = {
    "model_args": frozenset((
        "attn_drop_rate", "base_width", "cardinality", "channels", "class_token", "conv_ratio", "depth",
        "depths", "dims", "drop_path_rate", "drop_rate", "dynamic_img_pad", "dynamic_img_size", "embed_cls",
        "embed_dim", "embed_dims", "fc_norm", "final_norm", "global_pool", "head_hidden_size", "img_size",
        "in_chans", "init_values", "layers", "ls_init_value", "mlp_ratio", "no_embed_class", "num_classes",
        "num_heads", "num_reg_tokens", "output_stride", "patch_drop_rate", "patch_size", "pos_drop_rate",
        "pos_embed", "pre_norm", "proj_bias", "proj_drop_rate", "qk_norm", "qkv_bias", "reg_tokens",
        "stem_chs", "stem_type", "stem_width", "strict_img_size", "width", "window_size",
    ))
}
# fmt: on


def restricted(cls: Any, arguments: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    """The arguments without sources of weights and without what goes past us to another library.

    `pretrained` becomes null and `weights` random: what lies in an export is filled from the file beside it. Networks
    that lie in none (`published_weights = True`: text towers, teachers) are named by a word of timm's or open_clip's
    list, and may be `pretrained`, never a file of the config's choice.
    """
    accepted, hints = inspect.signature(cls.__init__).parameters, annotations_of(cls.__init__)
    found = dict(arguments)
    for name, keys in OPEN_MAPPINGS.items():
        if isinstance(found.get(name), Mapping):
            check_open_mapping(found[name], keys, key=f"{key}.{name}")
    if "pretrained" in accepted:
        found["pretrained"] = None
    if "weights" in accepted and what_it_takes(hints.get("weights"), "random") is None:
        found["weights"] = _weights(
            cls, found.get("weights", accepted["weights"].default), hints.get("weights"), key=key
        )
    return found


def check_open_mapping(values: Mapping[str, Any], keys: frozenset[str], *, key: str) -> None:
    for name, value in values.items():
        if name not in keys:
            raise UserError(
                f"{key}.{name}: not among the settings that a loaded config may give here; "
                f"{did_you_mean(str(name), keys)}"
            )
        if not all(isinstance(v, bool | int | float | str | None) for v in _flat(value)):
            raise UserError(f"{key}.{name}: a loaded config may give numbers, texts, true, false and lists here")


def _weights(cls: type, wanted: Any, hint: Any, *, key: str) -> Any:
    if not getattr(cls, "published_weights", False):
        return "random"
    if wanted in ("pretrained", "random") or wanted in our_teachers_files():
        return wanted
    if what_it_takes(hint, None) is None:
        return None  # the part says what to do when its weights are needed
    raise UserError(
        f"{key}.weights={str(wanted)[:80]}: a loaded config names no files; write pretrained or random there"
    )


@cache
def our_teachers_files() -> frozenset[str]:
    """Files that configs/teacher/ itself names, such as the small teacher that `imtok train-teacher` makes here."""
    import yaml

    nodes = [node for file in TEACHERS.glob("*.yaml") for node in yaml.safe_load(file.read_text()).values()]
    return frozenset(node["weights"] for node in nodes if "${" not in node["weights"])


def _flat(value: Any) -> list[Any]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [item for part in value for item in _flat(part)]
    return [value]
