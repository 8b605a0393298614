"""The config of one stored update: an experiment's own, in the sizes of the folder, without chance."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..common.build import locate
from ..common.types import height_width
from ..configs.compose import compose_config
from ..tokenizers import released
from ..tokenizers.released.base import Release
from .discriminators import PublishedDiscriminator, published
from .rows import Row
from .sizes import sized
from .stand_ins import Flip
from .training_folders import StoredStep, step_of

State = dict[str, Tensor]
DISCRIMINATOR, TRUNK = "discriminator.", "discriminator_trunk."
# The stored steps were taken without chance, or with stored draws (stand_ins.py).
CHANCE = {"drop_path": 0.0, "scale_dropout": 0.0, "augment": None, "crop_chance": 0.0}
# One process of a CPU, in fp32; the learning rate at its peak, as the folders have it.
RUN = {
    "trainer.precision": "fp32",
    "trainer.accelerator": "cpu",
    "trainer.channels_last": False,
    "trainer.compile": False,
    "trainer.accumulate": 1,
    "trainer.ema": None,
    "trainer.log_every": 1,
    "optimizer.schedule": None,
    "adversary.optimizer.schedule": None,
    "ckpt_path": None,
    "init_from": None,
}


@dataclass(frozen=True, kw_only=True)
class StoredWeights:
    """A folder's weights in fp32: of the tokenizer and what trains beside it, of the discriminator, of its trunk."""

    own: State
    discriminator: State
    trunk: State

    @classmethod
    def split(cls, weights: State) -> "StoredWeights":
        weights = in_fp32(weights)
        return cls(
            own={name: tensor for name, tensor in weights.items() if not name.startswith((DISCRIMINATOR, TRUNK))},
            discriminator=_below(weights, DISCRIMINATOR),
            trunk=_below(weights, TRUNK),
        )


def in_fp32(tensors: Mapping[str, Tensor]) -> State:
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """What to build. rows: settings in which experiment and weights differ."""

    experiment: str
    config: dict[str, Any]
    step: StoredStep
    weights: StoredWeights
    release: Release
    discriminator: PublishedDiscriminator | None
    rows: list[Row]


def step_config(
    folder: Mapping[str, Any],
    io: Mapping[str, Tensor],
    weights: State,
    *,
    experiment: str | None = None,
) -> StepConfig:
    """experiment: that of the system, if none is given."""
    step, split = step_of(str(folder["system"])), StoredWeights.split(weights)
    size = height_width(io["image"].shape[-2:])
    release = released.find(step.reader).read(split.own, image_size=size, constructor=said(folder))
    experiment = experiment or step.sibling(folder) or step.experiment
    config = compose_config("train", [f"experiment={experiment}", "weights=random"])
    config["tokenizer"], rows = sized(config["tokenizer"], release.node, as_stored=step.as_stored)
    discriminator = _size_discriminator(config, split.discriminator, folder)
    if "text_features" in io:
        shrink_text_towers(config["loss"], dim=io["text_features"].shape[-1])
    for key, value in RUN.items():
        put(config, key, value)
    for part in ("tokenizer", "adversary"):
        take_out_chance(config[part], CHANCE | dict(step.chance))
    put(config, "adversary.consistency.augment", {"_target_": f"{Flip.__module__}.{Flip.__qualname__}"})
    return StepConfig(
        experiment=experiment,
        config=config,
        step=step,
        weights=split,
        release=release,
        discriminator=discriminator,
        rows=rows,
    )


def said(folder: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the reference's constructor, with the sizes that replace hard-coded ones."""
    found: dict[str, Any] = {}
    for part in ("constructor", "sizes", "size_overrides"):
        found |= folder.get(part) or {}
    return found


def put(config: dict[str, Any], key: str, value: Any) -> None:
    """Set `key` where the node it stands in exists."""
    *path, name = key.split(".")
    node: Any = config
    for part in path:
        node = node.get(part) if isinstance(node, Mapping) else None
    if isinstance(node, dict):
        node[name] = value


def take_out_chance(node: Any, settings: Mapping[str, Any]) -> None:
    """Also where the YAML leaves a setting at its default."""
    if isinstance(node, dict):
        target = node.get("_target_")
        taken = inspect.signature(locate(target, key="_target_")).parameters if target else {}
        node |= {name: value for name, value in settings.items() if name in taken}
        for child in node.values():
            take_out_chance(child, settings)


def shrink_text_towers(losses: Mapping[str, Any], *, dim: int) -> None:
    """Their outputs are stored: any tower of that width will do."""
    for entry in losses.values():
        if entry is not None and isinstance(entry["term"].get("tower"), Mapping):
            sizes = {"dim": dim, "width": 8, "layers": 1, "heads": 1}
            entry["term"]["tower"] |= {"model": None, "tag": None, "weights": "random", **sizes}


def _size_discriminator(
    config: dict[str, Any], state: State, folder: Mapping[str, Any]
) -> PublishedDiscriminator | None:
    """Without stored weights there is no discriminator yet in this update."""
    if not state:
        return None
    node = config["adversary"]["discriminator"]
    found = published(node["_target_"])
    node |= found.sizes(state, said(folder))
    return found


def _below(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
