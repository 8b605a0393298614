"""Rows of a stored training step: each stored output against what our update gave, and the optimizers' settings."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .rounding import a_rounding_error_away, allowed_by_file, allowed_by_measure, known_noise
from .rows import Result, Row, compare, scale_of
from .training_step import DISCRIMINATOR, Ran, run

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
    ran = run(config, stored, weights, experiment=experiment)
    result = Result(folder, f"{config['system']} ({ran.experiment})", num_weights=len(weights))
    result.inputs = sorted(INPUTS & set(stored))
    result.unused_weights = sorted(set(weights) - ran.used)
    settings, optimizers = list(ran.rows), list(optimizer_rows(ran, config))
    outputs = output_rows(ran, config, stored)
    noise = known_noise(folder)
    if not all(row.ok for row in outputs):
        outputs = output_rows(ran, config, stored, allowed=lambda name: allowed_by_file(noise, name))
    if not all(row.ok for row in outputs):
        again = [ours_of(other, config) for other in run_again(config, stored, weights, experiment=experiment)]
        ours = ours_of(ran, config)

        def allowed(name: str) -> float:
            measured = allowed_by_measure(name, stored[name], ours(name), again)
            return max(measured, allowed_by_file(noise, name))

        outputs = output_rows(ran, config, stored, allowed=allowed)
    result.rows = [*settings, *optimizers, *outputs]
    stepped = [row for row in outputs if _kind(row.output) in STEPS]
    result.shows = {
        "objective": all(row.ok for row in (*settings, *outputs) if row not in stepped),
        "optimizer": all(row.ok for row in (*optimizers, *stepped)),
    }
    return result


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
    for name, stored in io.items():
        if name in INPUTS:
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


STEPS = ("step1", "change1", "step2", "change2")
INPUTS = {
    "image", "teacher_features", "teacher_tokens", "teacher_pooled", "text_features", "text_guidance", "proxy_codes",
    "noise", "kept_tokens", "quantizer_dropout", "lecam_before",
}  # fmt: skip


def ours_of(ran: Ran, folder: Mapping[str, Any]) -> Callable[[str], Tensor]:
    """Our value of an output by its stored name; KeyError for names that are not known."""
    seen, step = ran.seen, ran.step
    known: dict[str, Any] = {**COMMON, **step.outputs}
    sides = {"": Side(ran, "generator", folder), DISCRIMINATOR: Side(ran, "adversary", folder)}

    def value(name: str) -> Tensor:
        side = DISCRIMINATOR if name.startswith(DISCRIMINATOR) else ""
        kind, _, parameter = name.removeprefix(side).partition(".")
        if name in known:
            found = known[name](seen)
            if name == "total" and step.constant is not None:
                found = found - step.constant(seen)
            if name == "reconstruction" and tuple(folder.get("image_range", (-1, 1))) == (0.0, 1.0):
                found = (found + 1) / 2
            return found
        return sides[side].value(kind, parameter)

    return value


def _logits(which: str, number: int) -> Callable[[Any], Tensor]:
    def value(seen: Any) -> Tensor:
        found = seen.logits[which]
        if number >= len(found):
            raise KeyError(which)
        return found[number]

    return value


def _ratio(seen: Any) -> Tensor:
    """The adaptive weight alone."""
    return seen.raw["gan_weight"] / seen.training.adversary.weight(seen.update)


def _weighted_gan(seen: Any) -> Tensor:
    return seen.raw["gan_factor"] * seen.raw["gan_weight"] * seen.raw["gan_generator"]


def _lecam_after(seen: Any) -> Tensor:
    lecam = seen.training.adversary.lecam
    return torch.stack([lecam.ema_real, lecam.ema_fake])


def _discriminator_total(seen: Any) -> Tensor:
    if seen.discriminator_total is None:
        raise KeyError("discriminator.total")
    return seen.discriminator_total


COMMON: dict[str, Callable[[Any], Tensor]] = {
    "total": lambda seen: seen.raw["total"],
    "reconstruction": lambda seen: seen.output.reconstruction,
    "lpips": lambda seen: seen.raw["lpips"],
    "l1": lambda seen: seen.raw["l1"],
    "l2": lambda seen: seen.raw["l2"],
    "convnext": lambda seen: seen.raw["convnext"],
    "gan": lambda seen: seen.raw["gan_generator"],
    "gan_loss": lambda seen: seen.raw["gan_generator"],
    "weighted_gan_loss": _weighted_gan,
    "adaptive_weight": _ratio,
    "codebook_loss": lambda seen: seen.weighted("codebook"),
    "commitment_loss": lambda seen: seen.weighted("commit"),
    "entropy_loss": lambda seen: seen.raw["entropy"],
    "indices": lambda seen: seen.output.quantized.indices["main"],
    "logits_fake_generator": _logits("generator", 0),
    "lecam_after": _lecam_after,
    "grad_norm": lambda seen: seen.norms["generator"],
    "discriminator.grad_norm": lambda seen: seen.norms["adversary"],
    "discriminator.total": _discriminator_total,
    "discriminator.logits_real": _logits("discriminator", 0),
    "discriminator.logits_fake": _logits("discriminator", 1),
    "discriminator.logits_real_mean": lambda seen: seen.raw["logits_real"],
    "discriminator.logits_fake_mean": lambda seen: seen.raw["logits_fake"],
    "discriminator.hinge": lambda seen: seen.raw["gan_discriminator"],
    "discriminator.lecam": lambda seen: seen.raw["lecam"],
    "discriminator.consistency": lambda seen: seen.raw["consistency"],
}


class Side:
    """Gradients, steps and running statistics of one network, in the folder's names and shapes."""

    def __init__(self, ran: Ran, network: str, folder: Mapping[str, Any]) -> None:
        self.ran, self.network = ran, network
        self.names = list(folder.get(f"{'generator' if network == 'generator' else 'discriminator'}_parameters") or ())
        self._found: dict[str, State] = {}

    def value(self, kind: str, parameter: str) -> Tensor:
        if kind == "grad_norms":
            gradients = self.tensors("grad")
            return torch.stack(
                [gradients[n].norm() if n in gradients else torch.zeros(()).double() for n in self.names]
            )
        if kind == "after":
            return self.statistics()[parameter]
        return self.tensors(kind)[parameter]

    def tensors(self, kind: str) -> State:
        if kind not in self._found:
            self._found[kind] = self._made(kind)
        return self._found[kind]

    def _made(self, kind: str) -> State:
        seen = self.ran.seen
        if kind == "grad":
            return self.in_their_names(seen.gradients[self.network])
        number = {"step1": 0, "change1": 0, "step2": 1, "change2": 1}[kind]
        before, after = seen.before[self.network], seen.after[self.network][number]
        moved = self.in_their_names({name: after[name].double() - before[name].double() for name in before})
        if kind.startswith("change"):
            return moved
        theirs = self.their_weights()
        return {name: theirs[name].double() + change for name, change in moved.items()}

    def their_weights(self) -> State:
        return self.ran.weights if self.network == "generator" else self.ran.discriminator_weights

    def in_their_names(self, ours: State) -> State:
        """Sums over what became of a stored tensor: the gradient that it has itself, by the chain rule."""
        leaves = {n: t.double().requires_grad_() for n, t in self.their_weights().items() if t.is_floating_point()}
        renamed = self.renamed(leaves)
        there = [name for name in ours if name in renamed and renamed[name].requires_grad]
        with torch.enable_grad():
            found = torch.autograd.grad(
                [renamed[name] for name in there],
                list(leaves.values()),
                [ours[name].double().view(renamed[name].shape) for name in there],
                allow_unused=True,
            )
        return {name: value for name, value in zip(leaves, found, strict=True) if value is not None}

    def renamed(self, theirs: State) -> State:
        if self.network == "adversary":
            assert self.ran.discriminator is not None
            return self.ran.discriminator.renamed(theirs)
        beside = {f"losses.{o}": theirs[t] * 1 for t, o in self.ran.step.beside.items() if t in theirs}
        return self.ran.release.renamed(theirs) | beside

    def statistics(self) -> State:
        """Buffers of the discriminator after the update."""
        assert self.ran.training.adversary is not None and self.ran.discriminator is not None
        state = self.ran.training.adversary.discriminator.state_dict()
        renamed = self.ran.discriminator.renamed(self.their_weights())
        return {
            theirs: state[ours]
            for theirs, tensor in self.their_weights().items()
            for ours, same in renamed.items()
            if same is tensor
        }


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
    if not_decayed := folder.get("not_decayed"):
        side = Side(ran, "generator", folder)
        groups = ran.training.steppers["generator"].optimizer.param_groups
        decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        marks = {n: torch.full_like(p, float(id(p) in decayed)) for n, p in ran.seen.named("generator").items()}
        found = side.in_their_names(marks)
        theirs = {name for name, mark in found.items() if not mark.any()}
        other = sorted(theirs.symmetric_difference(set(not_decayed) & set(found)))
        error = f"{len(other)} of {len(side.names)} parameters differ" + (f": {', '.join(other[:3])}" if other else "")
        yield Row("optimizer.not_decayed", not other, error, "equal")


def equal_row(name: str, ours: Any, theirs: Any) -> Row:
    same = ours == theirs
    if isinstance(ours, float) and isinstance(theirs, (int, float)):
        same = abs(ours - theirs) <= 1e-9 * abs(theirs)
    return Row(name, same, f"{ours}" if same else f"{ours}, stored {theirs}", "equal")
