"""One update of TokenizerTraining on a stored training step, built from the experiment's own YAML.

Sizes, the update's number, weights and what stands in for chance and frozen networks come from the folder; loss
weights, adversary and optimizers from the YAML alone, so that another recipe shows as a row that fails.
"""

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

from ..common.build import build, build_as
from ..training.factory import assemble, build_trainer
from ..training.init_from import freeze_parts
from ..training.module import TokenizerTraining
from ..training.settings import TrainerSettings
from .discriminators import fill_trunk
from .seen import Seen
from .stand_ins import Step, StoredTeachers, put_in_place, stored_noise
from .training_config import DISCRIMINATOR, TRUNK, State, StepConfig, step_config
from .trunks import fill_perceptual_networks


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One update that was run, and what it was built from."""

    training: TokenizerTraining
    seen: Seen
    made_of: StepConfig

    @property
    def used(self) -> set[str]:
        """Names of the folder's weights that went somewhere, or are known to belong to no part of ours."""
        report, weights = self.made_of.release.report, self.made_of.weights
        found = {*report.used, *report.ignored, *report.beside}
        found |= {DISCRIMINATOR + name for name in weights.discriminator}
        return found | {TRUNK + name for name in weights.trunk}


def run(folder: Mapping[str, Any], io: Mapping[str, Tensor], weights: State, *, experiment: str | None = None) -> Ran:
    made_of = step_config(folder, io, weights, experiment=experiment)
    config, weights_of, step = made_of.config, made_of.weights, made_of.step
    tokenizer = build(config["tokenizer"], key="tokenizer")
    made_of.release.fill(tokenizer, without=step.not_stored)
    freeze_parts(tokenizer, list(config["freeze"]))
    settings = build_as(TrainerSettings, config["trainer"], key="trainer")
    teachers = StoredTeachers(config.get("teacher"), io)
    with tempfile.TemporaryDirectory() as scratch:
        training = assemble(config, tokenizer, settings=settings, folder=Path(scratch), teachers=teachers)
        fill_perceptual_networks(training.losses, seeds=_seeds(folder))
        if made_of.discriminator is not None:
            assert training.adversary is not None
            found = training.adversary.discriminator
            found.load_state_dict(made_of.discriminator.renamed(weights_of.discriminator))
            if weights_of.trunk:
                fill_trunk(found, weights_of.trunk)
        put_in_place(Step(tokenizer=tokenizer, losses=training.losses, adversary=training.adversary), io)
        _load_beside(training, step.beside, weights_of.own)
        seen = Seen(training)
        training.update = seen.update = step.update(folder, config)
        trainer = build_trainer(settings, loggers=[], callbacks=[seen], folder=Path(scratch))
        with stored_noise(io), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Lightning's, about a loop that is not the one used
            trainer.fit(training, datamodule=OneBatch(_in_our_range(io["image"], folder)))
    return Ran(training=training, seen=seen, made_of=made_of)


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


def _load_beside(training: TokenizerTraining, names: Mapping[str, str], weights: State) -> None:
    parameters = dict(training.losses.terms.named_parameters())
    with torch.no_grad():
        for theirs, ours in names.items():
            if theirs in weights:
                parameters[ours].copy_(weights[theirs])


def _in_our_range(images: Tensor, folder: Mapping[str, Any]) -> Tensor:
    low, high = folder.get("image_range", (-1.0, 1.0))
    return (images - low) / (high - low) * 2 - 1 if (low, high) != (-1.0, 1.0) else images


def _seeds(folder: Mapping[str, Any]) -> dict[str, int]:
    return {name: net["seed"] for name, net in (folder.get("perceptual") or {}).items() if "seed" in net}
