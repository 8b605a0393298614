"""A run from its composed config: build, fit, export, report."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..common.build import build
from ..common.console import is_first_rank, say
from ..common.distributed import gather_objects, wait_for_all
from ..common.provenance import git_facts
from . import run_folder
from .checkpoint import check_fits, read, restore
from .csv_logger import CSVLogger
from .factory import build_callbacks, build_loggers, build_trainer, build_training
from .module import TokenizerTraining
from .optim.ema import EMA
from .stopping import exit_code, leaving_at_once, name_of


def run(config: Mapping[str, Any], *, overrides: Sequence[str], folder: Path) -> int:
    """Returns the exit code."""
    with leaving_at_once():
        return _run(config, overrides=overrides, folder=folder)


def _run(config: Mapping[str, Any], *, overrides: Sequence[str], folder: Path) -> int:
    started_at = time.monotonic()
    checkpoint = Path(config["ckpt_path"]) if config["ckpt_path"] is not None else None
    state = read(checkpoint) if checkpoint is not None else None
    training = build_training(config, folder)
    training.started_at = started_at
    if state is not None:
        check_fits(training, state, source=checkpoint, config=config)  # before anything is written
    if config["evaluate_after"]:
        build(config["protocol"], key="protocol")  # refused now and not after the training
    loggers = build_loggers(config["logger"], folder)
    trainer = build_trainer(
        training.settings, loggers=loggers, callbacks=build_callbacks(config["callbacks"]), folder=folder
    )
    settings = training.settings
    resolved = {"trainer.precision": settings.precision, "trainer.channels_last": settings.channels_last}
    run_folder.prepare(folder, config=config, overrides=overrides, resolved=resolved)
    if state is not None:
        training.resume = lambda module: restore(module, state, source=checkpoint, config=config)
    for logger in loggers:
        if isinstance(logger, CSVLogger) and state is not None:
            logger.cut_back(state["update"])
        if is_first_rank():
            logger.log_hyperparams(dict(config))
    if is_first_rank():
        training.data.write_split(folder)
        say(f"run folder {folder}")
        say(f"trainer.precision {training.arithmetic}")

    if state is not None and state["update"] >= training.settings.max_updates:
        wanted = training.settings.max_updates
        say(f"{checkpoint} is at update {state['update']}; trainer.max_updates={wanted} asks for no more")
        load_finished(training, state, source=checkpoint, config=config)
        device = trainer.strategy.root_device
    else:
        training.data.prepare_data()  # not in `fit`, where Lightning notes SIGTERM and goes on drawing
        try:
            trainer.fit(training)
        except Exception:
            if training.stopped_by is None:
                raise
        device = trainer.strategy.root_device
    if training.stopped_by is not None:
        _say_how_to_go_on(training, folder)
        return exit_code(training.stopped_by)
    tokenizer = finished_tokenizer(training)
    exported = folder / "tokenizer"
    if is_first_rank():
        export(tokenizer, training, config, exported)
    if config["evaluate_after"]:
        evaluate_run(tokenizer, training, config, folder, device)
    report_skipped(training)
    if training.failed_writes:
        say(f"{training.failed_writes} checkpoint(s) could not be written during this run", error=True)
    say(f"tokenizer {exported}")
    if config["evaluate_after"]:
        say(f"report {folder / 'report.html'}")
    return 1 if training.failed_writes else 0


def load_finished(
    training: TokenizerTraining, state: Mapping[str, Any], *, source: Path, config: Mapping[str, Any]
) -> None:
    """Weights only: to export and judge a run once more."""
    training.steppers = {}
    if training.settings.ema is not None:
        training.ema = EMA(tokenizer=training.tokenizer, **training.settings.ema)
    restore(training, state, source=source, config=config)


def finished_tokenizer(training: TokenizerTraining) -> torch.nn.Module:
    """With the EMA's weights, where there is one, from here on."""
    if training.ema is not None:
        device = next(iter(training.ema.parameters.values())).device
        training.tokenizer.to(device)
        live = dict(training.tokenizer.named_parameters()) | dict(training.tokenizer.named_buffers())
        with torch.no_grad():
            for name, value in (training.ema.parameters | training.ema.buffers).items():
                live[name].copy_(value)
    return training.tokenizer.eval()


def export(tokenizer: torch.nn.Module, training: TokenizerTraining, config: Mapping[str, Any], folder: Path) -> None:
    from ..eval.probes.alignment import save_alignment
    from ..tokenizers.hub import save_pretrained

    facts = {
        "experiment": config["name"],
        "update": training.update,
        "images_seen": training.samples,
        "weights": "ema" if training.ema is not None else "raw",
        "skipped_updates": training.guard.skipped,
        "git": git_facts(),
        **weights_facts(training),
        "seed": config["seed"],
        "data": training.data.describe(),
    }
    save_pretrained(tokenizer, folder, facts=facts)
    save_alignment(training.losses, config, folder)


def weights_facts(training: TokenizerTraining) -> dict[str, Any]:
    """The losses whose frozen networks did not have the published weights."""
    return {"random_weights": training.losses.random_weights, "other_weights": training.losses.other_weights}


def evaluate_run(
    tokenizer: torch.nn.Module,
    training: TokenizerTraining,
    config: Mapping[str, Any],
    folder: Path,
    device: torch.device,
) -> None:
    from ..eval.evaluate import evaluate
    from ..eval.probes.alignment import Alignment
    from ..eval.probes.measure import meaning_of

    protocol = build(config["protocol"], key="protocol")
    results = evaluate(
        tokenizer,
        training.data.val_loader(),
        protocol=protocol,
        meaning=meaning_of(
            training.data,
            training.data.val_loader(),
            protocol,
            fit=True,
            alignment=Alignment.of_losses(training.losses),
        ),
        out_dir=folder,
        run_dir=folder,
        data_facts=training.data.describe() | {"evaluated": "val"},
        device=device,
        model_facts={
            "experiment": config["name"],
            "update": training.update,
            "weights": "ema" if training.ema is not None else "raw",
            **weights_facts(training),
        },
    )
    training.skipped.collect(results["skipped_images"])


def report_skipped(training: TokenizerTraining) -> None:
    """Each rank has seen other images; the first one writes and tells."""
    everywhere = gather_objects(list(training.skipped.lines))
    if is_first_rank():
        for lines in everywhere:
            training.skipped.collect(lines)
        training.skipped.report()


def _say_how_to_go_on(training: TokenizerTraining, folder: Path) -> None:
    reason = name_of(training.stopped_by)
    say(f"stopped by {reason} after update {training.update}; go on with: ckpt_path=last hydra.run.dir={folder}")
    wait_for_all()  # nobody leaves while another one still waits
