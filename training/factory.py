"""From the composed config to the objects of a run; what cannot work together fails here, before the first batch."""

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from ..common.build import build, build_as
from ..common.console import launched_processes
from ..common.errors import UserError, one_line
from ..data.batch_division import divide_batch
from ..data.datamodule import ImageData
from ..losses.adversarial.adversary import Adversary
from ..losses.teachers.registry import NamedTeachers
from ..losses.total import WeightedLosses
from ..tokenizers.tokenizer import Tokenizer
from .callbacks.validation import Validation
from .compiling import compile_parts
from .csv_logger import CSVLogger
from .ddp import PerNetworkDDP
from .fsdp2 import ShardedStrategy, check_sharded
from .init_from import freeze_parts, init_from
from .micro_batches import check_division
from .module import TokenizerTraining
from .randomness import seed_everything
from .recompute import checkpoint_activations
from .settings import TrainerSettings, without_auto

CSV = {"csv": {"_target_": f"{CSVLogger.__module__}.{CSVLogger.__qualname__}"}}
PACKAGES_OF_THEIR_OWN = ("wandb", "tensorboard")  # loggers that need the package of the same name


def build_training(config: Mapping[str, Any], folder: Path) -> tuple[TokenizerTraining, ImageData]:
    """What `trainer.fit(training, datamodule=data)` takes."""
    settings, arithmetic = without_auto(build_as(TrainerSettings, config["trainer"], key="trainer"))
    seed_everything(config["seed"])
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)

    data: ImageData = build(config["data"], key="data")
    division = divide_batch(
        batch_size=data.batch_size,
        batch_per_device=data.batch_per_device,
        accumulate=settings.accumulate,
        processes=launched_processes(),
    )
    data.accumulate = division.accumulate
    settings = replace(settings, accumulate=division.accumulate)
    tokenizer: Tokenizer = build(config["tokenizer"], key="tokenizer")
    if config["init_from"] is not None and config["ckpt_path"] is None:
        init_from(tokenizer, config["init_from"])
    freeze_parts(tokenizer, list(config["freeze"]))
    check_stage(config, tokenizer)
    training = assemble(config, tokenizer, settings=settings, folder=folder, arithmetic=arithmetic)
    check_division(division, tokenizer=tokenizer, losses=training.losses, adversary=training.adversary)
    if tokenizer.conditioner is not None:
        tokenizer.conditioner.load()
    readers: dict[str, Any] = (
        {"tokenizer.conditioner": tokenizer.conditioner} if tokenizer.conditioner is not None else {}
    )
    readers |= {f"loss.{name}": term for name, term in training.losses.terms.items() if term.needs_captions}
    for key, reader in readers.items():
        data.take_captioned(key)
        if reader.caption_numbers is not None:
            data.number_captions(reader.caption_numbers)
    # Each process draws its own noise from here on; weights were drawn alike on all.
    seed_everything(config["seed"] + int(os.environ.get("RANK", "0")))
    return training, data


def assemble(
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
    *,
    settings: TrainerSettings,
    folder: Path,
    arithmetic: str = "",
    teachers: NamedTeachers | None = None,
) -> TokenizerTraining:
    """Losses, adversary and optimizers of the config around a tokenizer. teachers: those of cfg.teacher, else built."""
    losses = WeightedLosses.from_config(config["loss"], tokenizer, teachers or NamedTeachers(config.get("teacher")))
    adversary: Adversary | None = build(config["adversary"], key="adversary") if config["adversary"] else None
    if adversary is not None:
        adversary.check(tokenizer, list(losses.terms))
    if settings.channels_last:
        for part in (tokenizer, adversary):
            if part is not None:
                part.to(memory_format=torch.channels_last)
    checkpoint_activations(tokenizer, settings.checkpoint_activations)
    if settings.compile and settings.strategy != "fsdp2":  # which compiles its blocks
        compile_parts(tokenizer, adversary)
    training = TokenizerTraining(
        tokenizer=tokenizer,
        losses=losses,
        adversary=adversary,
        optimizer=config["optimizer"],
        settings=settings,
        run_folder=folder,
        config=config,
        arithmetic=arithmetic,
    )
    for network in training.networks.values():  # a wrong setting is an error before anything is written
        network.build_optimizer()
        network.learning_rate(settings.max_updates)
    return training


def check_stage(config: Mapping[str, Any], tokenizer: nn.Module) -> None:
    """A later stage on untrained parts, or a frozen tower on random weights, would run for days without a word."""
    from_nothing = config["init_from"] is None and config["ckpt_path"] is None and config.get("weights") != "random"
    for name, part in tokenizer.named_modules():
        if from_nothing and getattr(part, "frozen_from_nothing", False):
            raise UserError(
                f"tokenizer.{name}.pretrained=null: this part does not train and would keep its random weights; give "
                "the path of a file (weights=random to try things without)"
            )
    trained_before = [path for path in config["freeze"] if path.split(".")[0] in ("encoder", "quantizer")]
    if from_nothing and trained_before and not any(_starts_trained(config["tokenizer"], p) for p in trained_before):
        raise UserError(
            f"freeze={list(config['freeze'])}: these parts would keep their random weights; give init_from=DIR, the "
            "stage before (weights=random to try things without)"
        )


def _starts_trained(node: Mapping[str, Any], path: str) -> bool:
    """Whether the part at `path` has published weights: named in its own node, or in that of what it lies in."""
    for name in path.split("."):
        if not isinstance(node.get(name), Mapping):
            return bool(node.get("pretrained") or node.get("weights"))
        node = node[name]
    return _names_weights(node)


def _names_weights(node: Any) -> bool:
    """Whether a part, or a part of it, starts from published weights."""
    if not isinstance(node, Mapping):
        return False
    return any(
        bool(value) if key in ("pretrained", "weights") else _names_weights(value) for key, value in node.items()
    )


def build_loggers(node: Mapping[str, Any] | None, folder: Path) -> list[Logger]:
    """metrics.csv beside any other, unless `csv` is null: the report, `imtok doctor` and a resume read it."""
    loggers = []
    for name, entry in (CSV | dict(node) if node else {}).items():
        if entry is None:
            continue
        if name in PACKAGES_OF_THEIR_OWN and find_spec(name) is None:
            raise UserError(f"logger=[{name}]: {name} is not installed: pip install {name}, or logger=[csv]")
        run = f"{folder.parent.name}-{folder.name}"
        given = {"folder": str(folder), "save_dir": str(folder), "name": run, "version": ""}
        if name == "wandb":
            os.environ.setdefault("WANDB_RESUME", "allow")  # the same run folder is the same wandb run
            given["version"] = run
        elif name == "tensorboard":
            given["name"] = "tensorboard"
        loggers.append(build(entry, key=f"logger.{name}", **given))
    return loggers


def build_callbacks(node: Mapping[str, Any] | None) -> list[Callback]:
    """imtok's and anyone's: a callback of Lightning, or of a package of one's own."""
    callbacks = []
    for name, entry in (node or {}).items():
        if entry is None:
            continue
        callbacks.append(build(entry, key=f"callbacks.{name}"))
        if not isinstance(callbacks[-1], Callback):
            raise UserError(f"callbacks.{name}._target_={entry['_target_']}: not a lightning.pytorch.Callback")
    return callbacks


def build_trainer(
    settings: TrainerSettings, *, loggers: list[Logger], callbacks: list[Callback], folder: Path
) -> Trainer:
    """Lightning's part: processes, devices, callbacks, loggers. One epoch is the whole run."""
    processes = launched_processes()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", str(processes)))
    if processes == 1 and settings.devices not in ("auto", 1):
        raise UserError(
            f"trainer.devices={settings.devices}: one process uses one device; "
            f"start with torchrun --nproc_per_node={settings.devices} train.py ..."
        )
    if settings.devices not in ("auto", here):
        raise UserError(
            f"trainer.devices={settings.devices}, but torchrun started {here} processes here; leave it at auto"
        )
    accelerator = {"cuda": "gpu"}.get(settings.accelerator, settings.accelerator)
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError(f"trainer.accelerator={settings.accelerator}: torch sees no CUDA device here; use cpu or auto")
    if accelerator in ("auto", "gpu") and torch.cuda.is_available() and here > torch.cuda.device_count():
        raise UserError(
            f"trainer.accelerator={settings.accelerator}: {here} processes for {torch.cuda.device_count()} GPU(s); "
            "lower --nproc_per_node or use trainer.accelerator=cpu"
        )
    strategy = strategy_of(settings, processes)
    _quiet_lightning()
    given = settings.lightning or {}
    options: dict[str, Any] = {
        "benchmark": torch.cuda.is_available() and not given.get("deterministic"),
        "enable_model_summary": False,
        "inference_mode": False,  # a tensor made in it could not be trained with later
        **given,
    }
    if not any(isinstance(callback, Validation) for callback in callbacks):
        options["limit_val_batches"] = 0
    try:
        trainer = Trainer(
            accelerator=accelerator,
            devices=here,
            num_nodes=max(processes // here, 1),
            strategy=strategy,
            precision="32-true",  # autocast and loss scales are ours
            max_epochs=1,
            logger=loggers or False,
            callbacks=callbacks,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
            enable_progress_bar=False,
            log_every_n_steps=settings.log_every,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            # The Validation callback decides; these tell EarlyStopping that it happens within the epoch.
            val_check_interval=settings.validate_every * settings.micro_batches,
            check_val_every_n_epoch=None,
            default_root_dir=str(folder),
            **options,
        )
    except (MisconfigurationException, TypeError, ValueError) as error:
        if not given:
            raise
        raise UserError(f"trainer.lightning={dict(given)}: Lightning refuses this: {one_line(error)}") from error
    # Before every batch Lightning would ask rank 0 whether it received SIGTERM, and wait for the device; stopping.py
    # asks all ranks, together with the check of an update's numbers.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    if given.get("overfit_batches"):  # ImageData repeats them; Lightning would stop after the first time
        trainer.limit_train_batches = 1.0
    return trainer


def strategy_of(settings: TrainerSettings, processes: int) -> DDPStrategy | str:
    """torchrun has started the processes, so that of Lightning's names only what follows `ddp` matters."""
    name = settings.strategy
    if name == "auto":
        return PerNetworkDDP() if processes > 1 else name
    if name == "fsdp2":
        check_sharded(settings, processes)
        return ShardedStrategy()
    known = [n for n in StrategyRegistry.available_strategies() if n.startswith("ddp")]
    if name not in known:
        raise UserError(f"trainer.strategy={name}: auto, fsdp2, or one of Lightning's that begin with ddp")
    said = {"true": True, "false": False}
    return PerNetworkDDP(search=said.get(name.rpartition("_")[2]))


def _quiet_lightning() -> None:
    """No greetings, and no advice about a loop that is not the one used; callbacks and profilers may speak."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ("callbacks", "profilers"):
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)
    for text in (
        ".*does not have many workers.*",
        ".*log_every_n_steps.*",
        ".*find_unused_parameters=True was specified.*",
        ".*GPU available but not used.*",
        ".*treespec.*LeafSpec.*",
        ".*in eval mode at.*",
        r".*recommended to use `self.log\('(val/|step).*",  # validation_means.py has joined the ranks
    ):
        warnings.filterwarnings("ignore", message=text)
