"""Check of a stored training step: one update of TokenizerTraining, built from the experiment's own YAML.

Sizes, the update's number, weights and what stands in for chance and frozen networks come from the folder; loss
weights, adversary and optimizers from the YAML alone, so that another recipe shows as a row that fails.
"""

import inspect
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from ..common.build import build, build_as, locate
from ..common.types import Grid, height_width
from ..configs.compose import compose_config
from ..tokenizers import released
from ..tokenizers.released.base import Release
from ..training.factory import assemble, build_trainer
from ..training.init_from import freeze_parts
from ..training.module import TokenizerTraining
from ..training.settings import TrainerSettings
from .discriminators import PublishedDiscriminator, fill_trunk, published
from .rows import Row
from .seen import Seen
from .sizes import sized
from .stand_ins import Flip, Step, StoredTeachers, put_in_place, stored_noise
from .training_folders import StoredStep, step_of
from .trunks import fill_perceptual_networks

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
class Ran:
    """One update that was run, and how its names correspond to the folder's."""

    training: TokenizerTraining
    seen: Seen
    release: Release
    weights: State  # of the tokenizer and of what trains beside it, by their names
    step: StoredStep
    discriminator: PublishedDiscriminator | None
    discriminator_weights: State
    trunk_weights: State
    experiment: str
    rows: list[Row]  # settings in which experiment and folder differ

    @property
    def used(self) -> set[str]:
        """Names of the folder's weights that went somewhere, or are known to belong to no part of ours."""
        report = self.release.report
        found = {*report.used, *report.ignored, *report.beside}
        found |= {DISCRIMINATOR + name for name in self.discriminator_weights}
        return found | {TRUNK + name for name in self.trunk_weights}


def run(folder: Mapping[str, Any], io: Mapping[str, Tensor], weights: State, *, experiment: str | None = None) -> Ran:
    step = step_of(str(folder["system"]))
    weights = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    parts = {prefix: _below(weights, prefix) for prefix in (DISCRIMINATOR, TRUNK)}
    own = {name: tensor for name, tensor in weights.items() if not name.startswith((DISCRIMINATOR, TRUNK))}
    release = released.find(step.reader).read(own, image_size=_image_size(folder), constructor=said(folder))

    config = compose_config("train", [f"experiment={experiment or step.experiment}", "weights=random"])
    config["tokenizer"], rows = sized(config["tokenizer"], release.node, as_stored=step.as_stored)
    discriminator = _size_discriminator(config, parts[DISCRIMINATOR], folder)
    if "text_features" in io:
        shrink_text_towers(config["loss"], dim=io["text_features"].shape[-1])
    for key, value in RUN.items():
        put(config, key, value)
    for part in ("tokenizer", "adversary"):
        take_out_chance(config[part], CHANCE | dict(step.chance))
    put(config, "adversary.consistency.augment", {"_target_": f"{Flip.__module__}.{Flip.__qualname__}"})

    tokenizer = build(config["tokenizer"], key="tokenizer")
    release.fill(tokenizer, without=step.not_stored)
    freeze_parts(tokenizer, list(config["freeze"]))
    settings = build_as(TrainerSettings, config["trainer"], key="trainer")
    with tempfile.TemporaryDirectory() as scratch:
        training = assemble(
            config,
            tokenizer,
            settings=settings,
            folder=Path(scratch),
            teachers=StoredTeachers(config.get("teacher"), io),
        )
        fill_perceptual_networks(training.losses, seeds=_seeds(folder))
        if discriminator is not None:
            assert training.adversary is not None
            found = training.adversary.discriminator
            found.load_state_dict(discriminator.renamed(parts[DISCRIMINATOR]))
            if parts[TRUNK]:
                fill_trunk(found, parts[TRUNK])
        put_in_place(Step(tokenizer=tokenizer, losses=training.losses, adversary=training.adversary), io)
        _load_beside(training, step, own)
        seen = Seen(training)
        training.update = seen.update = step.update(folder, config)
        trainer = build_trainer(settings, loggers=[], callbacks=[seen], folder=Path(scratch))
        with stored_noise(io), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's, about a loop that is not the one used
            trainer.fit(training, datamodule=OneBatch(_in_our_range(io["image"], folder)))
    return Ran(
        training=training,
        seen=seen,
        release=release,
        weights=own,
        step=step,
        discriminator=discriminator,
        discriminator_weights=parts[DISCRIMINATOR],
        trunk_weights=parts[TRUNK],
        experiment=experiment or step.experiment,
        rows=rows,
    )


class OneBatch(LightningDataModule):
    """The stored images, once."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        names = [str(number) for number in range(len(images))]
        self.batch = {"image": images, "key": names, "caption": [""] * len(images), "skipped": []}

    def begin_at(self, start_sample: int, **_: Any) -> None:
        """Whatever the update's number, these are its images."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader([self.batch], batch_size=None)  # type: ignore[arg-type]


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
        taken = inspect.signature(locate(target, key="_target_").__init__).parameters if target else {}
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


def _load_beside(training: TokenizerTraining, step: StoredStep, weights: State) -> None:
    parameters = dict(training.losses.terms.named_parameters())
    with torch.no_grad():
        for theirs, ours in step.beside.items():
            if theirs in weights:
                parameters[ours].copy_(weights[theirs])


def _in_our_range(images: Tensor, folder: Mapping[str, Any]) -> Tensor:
    low, high = folder.get("image_range", (-1.0, 1.0))
    return (images - low) / (high - low) * 2 - 1 if (low, high) != (-1.0, 1.0) else images


def _image_size(folder: Mapping[str, Any]) -> Grid:
    return height_width(folder.get("image_size", 256))


def _seeds(folder: Mapping[str, Any]) -> dict[str, int]:
    return {name: net["seed"] for name, net in (folder.get("perceptual") or {}).items() if "seed" in net}


def _below(state: State, prefix: str) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
