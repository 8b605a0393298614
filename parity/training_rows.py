"""Rows of a stored training step: each stored output against what our update gave, and the optimizers' settings."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .rounding import a_rounding_error_away, allowed_by_measure, allowed_unmeasured, known_noise, most
from .rows import Result, Row, compare, scale_of
from .training_config import DISCRIMINATOR, in_fp32
from .training_outputs import Side, ours_of
from .training_step import Ran, run

State = dict[str, Tensor]
CHANGE_TOLERANCE = 1e-2  # of the learning rate


def check_training_step(
    folder: Path,
    config: Mapping[str, Any],
    stored: Mapping[str, Tensor],
    weights: State,
    *,
    experiment: str | None = None,
) -> Result:
    """experiment: another than the one that has this system's recipe."""
    stored = in_fp32(stored)
    ran = run(config, stored, weights, experiment=experiment)
    result = Result(folder, f"{config['system']} ({ran.made_of.experiment})", num_weights=len(weights))
    result.inputs = [*sorted(INPUTS & set(stored)), f"update {ran.seen.update}"]
    result.unused_weights = sorted(set(weights) - ran.used)
    settings, optimizers = list(ran.made_of.rows), list(optimizer_rows(ran, config))
    outputs = output_rows(ran, config, stored)
    noise = known_noise(folder)

    def known(name: str) -> float:
        return allowed_unmeasured(noise, name, stored[name])

    if not all(row.ok for row in outputs):
        outputs = output_rows(ran, config, stored, allowed=known)
    if not all(row.ok for row in outputs) and within_rounding(outputs, stored):
        again = [ours_of(other, config) for other in run_again(config, stored, weights, experiment=experiment)]
        ours = ours_of(ran, config)

        def allowed(name: str) -> float:
            return max(known(name), allowed_by_measure(name, stored[name], ours(name), again))

        outputs = output_rows(ran, config, stored, allowed=allowed)
    result.rows = [*settings, *optimizers, *outputs]
    kinds = {row.output: _kind(row.output) for row in outputs}
    made = [row for row in outputs if kinds[row.output] in FORWARD or row.output.endswith("indices")]
    stepped = [row for row in outputs if kinds[row.output] in STEPS]
    result.shows = {"forward": all(row.ok for row in (*settings, *made))} if made else {}
    result.shows["objective"] = all(row.ok for row in (*settings, *outputs) if kinds.get(row.output) not in STEPS)
    result.shows["optimizer"] = all(row.ok for row in (*optimizers, *stepped))
    return result


def within_rounding(rows: list[Row], stored: Mapping[str, Tensor]) -> bool:
    """Whether rounding may explain all that differs; a wrong weight moves some number by more."""
    failed = [row for row in rows if not row.ok]
    return all(row.tolerance not in ("", "equal") and row.size <= most_allowed(row.output, stored) for row in failed)


def most_allowed(name: str, stored: Mapping[str, Tensor]) -> float:
    return most(name) * scale_of(stored[name])


def run_again(
    config: Mapping[str, Any], stored: Mapping[str, Tensor], weights: State, *, experiment: str | None
) -> Iterator[Ran]:
    with warnings.catch_warnings(action="ignore"), torch.backends.mkldnn.flags(enabled=False):
        yield run(config, stored, weights, experiment=experiment)
    yield run(config, {**stored, "image": a_rounding_error_away(stored["image"])}, weights, experiment=experiment)


def output_rows(
    ran: Ran,
    folder: Mapping[str, Any],
    io: Mapping[str, Tensor],
    *,
    allowed: Callable[[str], float] = lambda name: 0.0,
) -> list[Row]:
    """allowed: shares of an output's deviation, where they are above the tolerance of all."""
    ours, rows = ours_of(ran, folder), []
    # Some originals run the discriminator from the first update on, times 0.
    idle = "adversary" not in ran.seen.before and not io.get(f"{DISCRIMINATOR}total", torch.ones(())).any()
    for name, stored in io.items():
        if name in INPUTS:
            continue
        if idle and (name.startswith(DISCRIMINATOR) or name in OF_THE_GAN):
            rows.append(Row(name, True, "does not run yet", "counts 0 there"))
            continue
        try:
            mine = ours(name)
        except KeyError:
            rows.append(Row(name, False, "not computed"))
            continue
        least = allowed(name) * scale_of(stored) if stored.is_floating_point() else 0.0
        if _kind(name) in STEPS:
            key = "discriminator_optimizer" if name.startswith(DISCRIMINATOR) else "optimizer"
            least = max(least, CHANGE_TOLERANCE * folder[key]["lr"])
        rows.append(
            compare(name, mine.reshape(stored.shape) if mine.numel() == stored.numel() else mine, stored, least=least)
        )
    return rows


def _kind(name: str) -> str:
    return name.removeprefix(DISCRIMINATOR).partition(".")[0]


OF_THE_GAN = ("gan", "gan_loss", "weighted_gan_loss", "adaptive_weight", "logits_fake_generator", "lecam_after")
FORWARD = (  # what the tokenizer makes, in training mode
    "reconstruction", "proxy_logits", "inner_features", "semantic_reconstruction", "semantic_tokens", "pooled",
    "clip_image_features", "direct_reconstruction",
)  # fmt: skip
STEPS = ("step1", "change1", "step2", "change2")
INPUTS = {
    "image", "teacher_features", "teacher_tokens", "teacher_pooled", "text_features", "text_guidance", "proxy_codes",
    "noise", "kept_tokens", "quantizer_dropout", "lecam_before",
}  # fmt: skip


# -- the optimizers' settings ------------------------------------------------------------------------------------------


def optimizer_rows(ran: Ran, folder: Mapping[str, Any]) -> Iterator[Row]:
    for network, key in (("generator", "optimizer"), ("adversary", "discriminator_optimizer")):
        if said := folder.get(key):
            stepper = ran.training.steppers[network]
            groups = stepper.optimizer.param_groups
            ours = {
                "name": type(stepper.optimizer).__name__.lower(),
                "lr": stepper.base_rates[0],
                "betas": list(groups[0]["betas"]),
                "weight_decay": max(group["weight_decay"] for group in groups),
                "eps": groups[0]["eps"],
                "clip_norm": stepper.clip,
            }
            if ours["weight_decay"] == said["weight_decay"] == 0 and {ours["name"], said["name"]} <= {"adam", "adamw"}:
                ours["name"] = said["name"]  # without decay the two are one
            for name, value in said.items():
                yield equal_row(f"{key}.{name}", ours.get(name), value)
    if (adversary := ran.training.adversary) is not None and "order" in folder and "adversary" in ran.seen.before:
        first = "discriminator first" if adversary.discriminator_first else "generator first"
        yield equal_row("order", first, folder["order"])
    side = Side(ran, "generator", folder)
    trained = side.in_their_names({n: torch.ones_like(p) for n, p in ran.seen.named("generator").items()})
    mapped = set(side.their_weights()) - set(ran.made_of.release.report.beside) | set(ran.made_of.step.beside)
    yield _same_names("trained", {n for n, mark in trained.items() if mark.any()}, set(side.names) & mapped)
    if not_decayed := folder.get("not_decayed"):
        groups = ran.training.steppers["generator"].optimizer.param_groups
        decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        marks = {n: torch.full_like(p, float(id(p) in decayed)) for n, p in ran.seen.named("generator").items()}
        found = side.in_their_names(marks)
        spared = {name for name, mark in found.items() if not mark.any()}
        yield _same_names("optimizer.not_decayed", spared, set(not_decayed) & set(found))


def _same_names(key: str, ours: set[str], theirs: set[str]) -> Row:
    other = sorted(ours ^ theirs)
    error = f"{len(other)} of {len(theirs | ours)} parameters differ"
    return Row(key, not other, error + (f": {', '.join(other[:3])}" if other else ""), "equal")


def equal_row(name: str, ours: Any, theirs: Any) -> Row:
    same = ours == theirs
    if isinstance(ours, float) and isinstance(theirs, (int, float)):
        same = abs(ours - theirs) <= 1e-9 * abs(theirs)
    return Row(name, same, f"{ours}" if same else f"{ours}, stored {theirs}", "equal")
