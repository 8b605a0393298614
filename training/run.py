"""A run from its composed config: build, fit, export, report."""

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ..common.build import build
from ..common.console import is_first_rank, say
from ..common.distributed import gather_objects, wait_for_all
from ..common.errors import UserError, one_line
from ..common.precision import tf32
from ..common.provenance import git_facts
from ..data.datamodule import ImageData
from . import run_folder
from .checkpoint import Saved, check_fits, read, restore
from .csv_logger import CSVLogger
from .factory import build_callbacks, build_loggers, build_trainer, build_training
from .fsdp2 import is_any_sharded, whole_state
from .module import TokenizerTraining
from .stopping import exit_code, leaving_at_once, name_of


@leaving_at_once()
def run(config: Mapping[str, Any], *, overrides: Sequence[str], folder: Path) -> int:
    """Returns the exit code."""
    started_at = time.monotonic()
    source = Path(config["ckpt_path"]) if config["ckpt_path"] is not None else None
    saved = Saved(source, read(source, shapes_only=True)) if source is not None else None
    training, data = build_training(config, folder)
    training.started_at = started_at
    settings = training.settings
    if saved is not None:
        check_fits(training, saved, config=config)  # before anything is written
    if config["evaluate_after"]:
        build(config["protocol"], key="protocol")  # refused now and not after the training
    loggers = build_loggers(config["logger"], folder)
    trainer = build_trainer(settings, loggers=loggers, callbacks=build_callbacks(config["callbacks"]), folder=folder)
    resolved = {f"trainer.{name}": getattr(settings, name) for name in ("precision", "channels_last", "tf32")}
    run_folder.prepare(folder, config=config, overrides=overrides, resolved=resolved)
    if saved is not None:
        training.resume = partial(restore, saved=saved, config=config)
    for logger in loggers:
        if isinstance(logger, CSVLogger) and saved is not None:
            logger.cut_back(saved.state["update"])
        if is_first_rank():
            logger.log_hyperparams(dict(config))
    if is_first_rank():
        data.write_split(folder)
        say(f"run folder {folder}")
        say(f"trainer.precision {training.arithmetic}")

    if saved is not None and saved.state["update"] >= settings.max_updates:
        now = f"is at update {saved.state['update']}; trainer.max_updates={settings.max_updates} asks for no more"
        say(f"{saved.source} {now}")
        training.fill_in()  # weights only: to export and evaluate a run once more
    else:
        data.prepare_data()  # not in `fit`, where Lightning notes SIGTERM and goes on drawing
        try:
            with tf32(settings.tf32, trainer.strategy.root_device):
                trainer.fit(training, datamodule=data)
        except (MisconfigurationException, ModuleNotFoundError) as error:
            raise UserError(f"callbacks, logger or trainer.lightning: {one_line(error)}") from error
        except Exception:
            if training.stopped_by is None:
                raise
    if training.stopped_by is not None:
        again = f"go on with: ckpt_path=last hydra.run.dir={folder}"
        say(f"stopped by {name_of(training.stopped_by)} after update {training.update}; {again}")
        wait_for_all()  # nobody leaves while another one still waits
        return exit_code(training.stopped_by)
    if training.update < settings.max_updates:
        say(f"finished after update {training.update} of {settings.max_updates}: {why_early(trainer)}")
    if training.ema is not None:
        training.ema.copy_to(training.tokenizer)
    training.tokenizer.eval()
    exported = folder / "tokenizer"
    weights = whole_state(training.tokenizer) if is_any_sharded(training.tokenizer) else None
    if is_first_rank():
        export(training, data, exported, weights=weights)
    if config["evaluate_after"]:
        evaluate_run(training, data, trainer.strategy.root_device, exported if weights is not None else None)
    report_skipped(training)
    if training.failed_writes:
        say(f"{training.failed_writes} checkpoint(s) could not be written during this run", error=True)
    say(f"tokenizer {exported}")
    if config["evaluate_after"]:
        say(f"report {folder / 'report.html'}")
    return 1 if training.failed_writes else 0


def why_early(trainer: Trainer) -> str:
    """What ended a run before trainer.max_updates, other than a signal."""
    reasons = [getattr(c, "stopping_reason_message", None) for c in trainer.early_stopping_callbacks]
    said = " ".join(reason.removesuffix(" Signaling Trainer to stop.") for reason in reasons if reason)
    if said:
        return said
    if trainer.should_stop:
        return "a callback set trainer.should_stop"
    return f"trainer.lightning.limit_train_batches={trainer.limit_train_batches}"


def facts_of(training: TokenizerTraining) -> dict[str, Any]:
    """random_weights, other_weights: the losses whose frozen networks did not have the published weights."""
    return {
        "experiment": training.config["name"],
        "update": training.update,
        "weights": "ema" if training.ema is not None else "raw",
        "random_weights": training.losses.random_weights,
        "other_weights": training.losses.other_weights,
    }


def export(
    training: TokenizerTraining, data: ImageData, folder: Path, *, weights: Mapping[str, torch.Tensor] | None = None
) -> None:
    """weights: the tokenizer's, where its own are sharded."""
    from ..eval.probes.alignment import save_alignment
    from ..tokenizers.hub import save_pretrained

    facts = facts_of(training) | {
        "images_seen": training.samples,
        "skipped_updates": training.guard.skipped,
        "git": git_facts(),
        "seed": training.config["seed"],
        "data": data.describe(),
    }
    save_pretrained(training.tokenizer, folder, facts=facts, weights=weights)
    save_alignment(training.losses, training.config, folder)


def evaluate_run(
    training: TokenizerTraining, data: ImageData, device: torch.device, exported: Path | None = None
) -> None:
    """exported: where whole weights are, if the training's are sharded."""
    from ..eval.evaluate import evaluate
    from ..eval.probes.alignment import Alignment, load_alignment
    from ..eval.probes.measure import meaning_of
    from ..tokenizers.hub import from_pretrained

    tokenizer, alignment = training.tokenizer, Alignment.of_losses(training.losses)
    if exported is not None:
        wait_for_all()  # rank 0 has written it
        tokenizer = from_pretrained(exported, trusted=packages_of(training.config["tokenizer"]))
        alignment = load_alignment(exported, tokenizer)
    protocol = build(training.config["protocol"], key="protocol")
    results = evaluate(
        tokenizer,
        data.val_loader(),
        protocol=protocol,
        meaning=meaning_of(data, data.val_loader(), protocol, fit=True, alignment=alignment),
        out_dir=training.run_folder,
        run_dir=training.run_folder,
        data_facts=data.describe() | {"evaluated": "val"},
        device=device,
        model_facts=facts_of(training),
    )
    training.skipped.collect(results["skipped_images"])


def packages_of(node: Mapping[str, Any]) -> list[str]:
    """Besides imtok, those whose classes a tokenizer names."""
    from ..configs.swaps import class_nodes

    return sorted({str(n["_target_"]).partition(".")[0] for _, n in class_nodes(node, "tokenizer")} - {"imtok"})


def report_skipped(training: TokenizerTraining) -> None:
    """Each rank has seen other images; the first one writes and prints."""
    for lines in gather_objects(list(training.skipped.lines)):
        if is_first_rank():
            training.skipped.collect(lines)
    if is_first_rank():
        training.skipped.report()
