"""Published discriminators in the words of ours: names of parameters, and the sizes that their shapes show."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..losses.adversarial.dino import without_key_bias
from ..losses.adversarial.patchgan import from_taming_keys

State = Mapping[str, Tensor]
Sizes = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PublishedDiscriminator:
    """renamed: tensors by our names. sizes: arguments of our class, from the weights and from what the folder says."""

    renamed: Callable[[State], dict[str, Tensor]]
    sizes: Callable[[State, Mapping[str, Any]], Sizes]


def _patchgan_sizes(state: State, said: Mapping[str, Any]) -> Sizes:
    convolutions = [name for name, tensor in state.items() if name.endswith("weight") and tensor.ndim == 4]
    return {"ndf": len(state["main.0.weight"]), "n_layers": len(convolutions) - 2}


def _blur_names(state: State) -> dict[str, Tensor]:
    places = {"block_in.0": "stem", "to_logits.0": "mix", "to_logits.2": "head"}
    parts = {"0": "conv", "2": "norm"}
    found = {}
    for name, tensor in state.items():
        if m := re.fullmatch(r"blocks\.(\d+)\.([02])\.(\w+)", name):
            found[f"blocks.{m[1]}.{parts[m[2]]}.{m[3]}"] = tensor
        elif (place := name.rpartition(".")[0]) in places:
            found[f"{places[place]}.{name.rpartition('.')[2]}"] = tensor
    return found


def _blur_sizes(state: State, said: Mapping[str, Any]) -> Sizes:
    stages = {m[1] for m in map(re.compile(r"blocks\.(\d+)\.0\.weight").fullmatch, state) if m}
    return {"ndf": len(state["block_in.0.weight"]), "stages": len(stages)}


def _residual_names(state: State) -> dict[str, Tensor]:
    parts = {"norm1": "norm", "conv1": "conv", "nin_shortcut": "widen"}
    last = max(int(m[1]) for m in map(re.compile(r"main\.(\d+)\.").match, state) if m)
    found = {}
    for name, tensor in state.items():
        if m := re.fullmatch(r"main\.(\d+)\.(norm1|conv1|nin_shortcut)\.(\w+)", name):
            found[f"blocks.{int(m[1]) - 2}.{parts[m[2]]}.{m[3]}"] = tensor
        elif m := re.fullmatch(r"main\.(\d+)\.(\w+)", name):
            found[f"{'stem' if int(m[1]) == 0 else 'head'}.{m[2]}"] = tensor
            assert int(m[1]) in (0, last), name
    return found


def _residual_sizes(state: State, said: Mapping[str, Any]) -> Sizes:
    blocks = {m[1] for m in map(re.compile(r"main\.(\d+)\.conv1\.weight").fullmatch, state) if m}
    return {"ndf": len(state["main.0.weight"]), "n_layers": len(blocks)}


def _head_names(state: State) -> dict[str, Tensor]:
    return {name.replace(".fn.", ".inner."): tensor for name, tensor in state.items() if name.startswith("heads.")}


def _trunk_sizes(state: State, said: Mapping[str, Any]) -> Sizes:
    trunk = said["discriminator_trunk"]  # no shape shows its heads
    kernel = state["heads.0.1.fn.0.weight_orig" if "heads.0.1.fn.0.weight_orig" in state else "heads.0.1.fn.0.weight"]
    return {
        "width": trunk["embed_dim"],
        "depth": trunk["depth"],
        "num_heads": trunk["num_heads"],
        "taps": tuple(trunk["taps"]),
        "kernel": kernel.shape[-1],
        "weights": "random",
    }


PUBLISHED = {
    "PatchGAN": PublishedDiscriminator(renamed=from_taming_keys, sizes=_patchgan_sizes),
    "BlurPatchGAN": PublishedDiscriminator(renamed=_blur_names, sizes=_blur_sizes),
    "ResidualPatchGAN": PublishedDiscriminator(renamed=_residual_names, sizes=_residual_sizes),
    "DinoDiscriminator": PublishedDiscriminator(renamed=_head_names, sizes=_trunk_sizes),
    "DinoV2Discriminator": PublishedDiscriminator(renamed=_head_names, sizes=_trunk_sizes),
}


def published(target: str) -> PublishedDiscriminator:
    """target: `_target_` of our class."""
    return PUBLISHED[target.rpartition(".")[2]]


def fill_trunk(discriminator: nn.Module, state: State) -> None:
    """The frozen network of a discriminator; every tensor of ours is in the file."""
    vit: Any = discriminator.get_submodule("trunk").module.vit  # type: ignore[union-attr]
    prepared = without_key_bias(state) if type(discriminator).__name__ == "DinoDiscriminator" else dict(state)
    own = vit.state_dict()
    vit.load_state_dict({name: prepared[name].reshape(own[name].shape) for name in own})
