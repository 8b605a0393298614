"""Our value of every output that a stored training step may have, under its name and in its shape."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .training_config import DISCRIMINATOR
from .training_step import Ran

State = dict[str, Tensor]


def ours_of(ran: Ran, folder: Mapping[str, Any]) -> Callable[[str], Tensor]:
    """Our value of an output by its stored name; KeyError for names that are not known."""
    seen, step = ran.seen, ran.made_of.step
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
    return seen.raw["gan_weight"] / seen.adversary.weight(seen.update)


def _weighted_gan(seen: Any) -> Tensor:
    if "gan_generator" not in seen.raw:
        return seen.zero
    return seen.raw["gan_factor"] * seen.raw["gan_weight"] * seen.raw["gan_generator"]


def _lecam_after(seen: Any) -> Tensor:
    lecam = seen.adversary.lecam
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
    "gan": lambda seen: seen.raw.get("gan_generator", seen.zero),  # 0 before its first update
    "gan_loss": lambda seen: seen.raw.get("gan_generator", seen.zero),
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
        self.ran, self.made_of, self.network = ran, ran.made_of, network
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
            weights, found = self.their_weights(), self.in_their_names(seen.gradients[self.network])
            nothing = {name: torch.zeros_like(weights[name]) for name in self.names if name in weights}
            return nothing | found  # what no loss reaches has no gradient
        number = {"step1": 0, "change1": 0, "step2": 1, "change2": 1}[kind]
        before, after = seen.before[self.network], seen.after[self.network][number]
        moved = self.in_their_names({name: after[name].double() - before[name].double() for name in before})
        if kind.startswith("change"):
            return moved
        theirs = self.their_weights()
        return {name: theirs[name].double() + change for name, change in moved.items()}

    def their_weights(self) -> State:
        weights = self.made_of.weights
        return weights.own if self.network == "generator" else weights.discriminator

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
            assert self.made_of.discriminator is not None
            return self.made_of.discriminator.renamed(theirs)
        beside = {f"losses.{o}": theirs[t] * 1 for t, o in self.made_of.step.beside.items() if t in theirs}
        return self.made_of.release.renamed(theirs) | beside

    def statistics(self) -> State:
        """Buffers of the discriminator after the update."""
        assert self.ran.training.adversary is not None and self.made_of.discriminator is not None
        state = self.ran.training.adversary.discriminator.state_dict()
        renamed = self.made_of.discriminator.renamed(self.their_weights())
        return {
            theirs: state[ours]
            for theirs, tensor in self.their_weights().items()
            for ours, same in renamed.items()
            if same is tensor
        }
