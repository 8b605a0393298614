"""Weighted sum of the named loss terms of cfg.loss."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..common.build import build
from ..common.console import say
from ..common.errors import UserError, did_you_mean
from ..common.schedule import Schedule, schedule_of
from ..common.types import TokenizerOutput
from ..common.weights import origins
from ..tokenizers.feature_taps import tap
from .base import LossTerm
from .teacher_term import TeacherTerm
from .teachers.registry import NamedTeachers


@dataclass
class LossValues:
    """All carry gradients."""

    total: Tensor
    weighted: dict[str, Tensor]
    unweighted: dict[str, Tensor]

    @property
    def raw(self) -> dict[str, Tensor]:
        """For logs."""
        return {name: value.detach() for name, value in self.unweighted.items()}

    def sum_of(self, names: Iterable[str] | Mapping[str, float | None]) -> Tensor:
        """Sum of the named terms that were computed; what the adversary weighs itself against.

        With the weights of `loss`, or with those that a mapping gives (None: that of `loss`).
        """
        own = names if isinstance(names, Mapping) else {}
        found = []
        for name in names:
            weight = own.get(name)
            if weight is None and name in self.weighted:
                found.append(self.weighted[name])
            elif weight and name in self.unweighted:
                found.append(weight * self.unweighted[name])
        return torch.stack(found).sum() if found else torch.zeros_like(self.total)


class WeightedLosses(nn.Module):
    """`loss.NAME: {weight, term}`; NAME is the log name, weight a number or a schedule over updates."""

    def __init__(self, *, terms: Mapping[str, LossTerm], weights: Mapping[str, float | Schedule | Mapping]) -> None:
        super().__init__()
        self.terms = nn.ModuleDict(dict(terms))
        self.weights: dict[str, Schedule] = {
            name: w if isinstance(w, Schedule) else schedule_of(w, key=f"loss.{name}.weight")
            for name, w in weights.items()
        }
        assert set(self.weights) == set(self.terms)
        self.notes: list[str] = []  # what from_config left out, and what the quantizer offers unweighted

    @classmethod
    def from_config(
        cls, node: Mapping[str, Any], tokenizer: Any, teachers: NamedTeachers | None = None
    ) -> "WeightedLosses":
        """Build and check every term against the tokenizer it will read from."""
        teachers = teachers or NamedTeachers()
        terms: dict[str, LossTerm] = {}
        weights: dict[str, Schedule] = {}
        left_out: dict[str, list[str]] = {}  # by reason
        for name, entry in node.items():
            if entry is None:  # loss.NAME=null takes a term away
                continue
            _check_entry(name, entry)
            weights[name] = schedule_of(entry.get("weight", 1.0), key=f"loss.{name}.weight")
            term = build(entry["term"], key=f"loss.{name}.term")
            if not isinstance(term, LossTerm):
                raise UserError(f"loss.{name}.term._target_={entry['term']['_target_']}: not a loss term (LossTerm)")
            if term.is_error and (least := min(weights[name].start, weights[name].end)) < 0:
                raise UserError(f"loss.{name}.weight={least}: below 0 it would make this error larger; give 0 or more")
            if isinstance(term, TeacherTerm):
                term.learn_from(teachers.get(str(term.teacher), asked_by=f"loss.{name}.term.teacher"))
            try:
                reason = term.misfit(tokenizer)
            except UserError as error:  # of weights that are chosen only here
                raise type(error)(f"loss.{name}.term.{error}") from error
            if reason is None:
                terms[name] = term
                tap(tokenizer, term.taps, key=f"loss.{name}.term.taps")
            elif term.optional:
                left_out.setdefault(reason.partition(": ")[2], []).append(f"loss.{name}")
                del weights[name]
            else:
                raise UserError(f"loss.{name}{reason}")
        notes = [f"left out {', '.join(names)}: {reason}" for reason, names in left_out.items()]
        read = {getattr(term, "key", None) for term in terms.values()}
        for offered in getattr(tokenizer.quantizer, "loss_names", ()):
            if offered not in read and "quantizer" not in getattr(tokenizer, "frozen", ()):
                notes.append(f"the quantizer's loss {offered!r} has no term and trains nothing; add it to loss=[...]")
        notes += [f"no loss uses teacher.{name}; it is not loaded" for name in teachers.unused]
        if not terms:
            raise UserError(f"loss={list(node)}: no term is left, so nothing would train; add one, e.g. loss=[l1]")
        losses = cls(terms=terms, weights=weights)
        losses.notes = notes
        for note in notes:
            say(f"note: {note}", error=True)  # what commands print as JSON stays JSON
        return losses

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput, update: int) -> LossValues:
        total = torch.zeros((), device=batch["image"].device)
        weighted: dict[str, Tensor] = {}
        unweighted: dict[str, Tensor] = {}
        for name, module in self.terms.items():
            term = cast(LossTerm, module)
            weight = self.weights[name](update)
            if (weight == 0 and not term.free) or not term.is_available(output):
                continue
            term.set_update(update)
            value = term(batch, output)
            unweighted[name] = value
            if weight != 0:  # a term without weight must not reach the sum: 0 * inf is nan
                weighted[name] = weight * value
                total = total + weighted[name]
        return LossValues(total, weighted, unweighted)

    def values_of(self, batch: Mapping[str, Any], output: TokenizerOutput) -> dict[str, Tensor]:
        """Every term that this output has something for, unweighted: in eval mode parts leave out their own losses."""
        terms = ((name, term) for name, term in self.terms.items() if isinstance(term, LossTerm))
        return {name: term(batch, output) for name, term in terms if term.is_available(output)}

    def after_step(self) -> None:
        for term in self.terms.values():
            cast(LossTerm, term).after_step()

    @property
    def random_weights(self) -> list[str]:
        """Terms whose frozen network has random weights: their numbers mean nothing, and reports say so."""
        return [name for name, term in self.terms.items() if any(w.random for w in origins(term))]

    @property
    def other_weights(self) -> dict[str, str]:
        """{term: first digits of the sha256} where a frozen network's file is not the published one."""
        found = {name: [w.label for w in origins(term) if not w.random] for name, term in self.terms.items()}
        return {name: ", ".join(sorted(set(labels) - {""})) for name, labels in found.items() if any(labels)}


def _check_entry(name: str, entry: Any) -> None:
    if not isinstance(entry, Mapping):
        raise UserError(f"loss.{name}={entry}: a loss is {{weight: 1.0, term: ...}}; set loss.{name}.weight")
    for key in entry:
        if key not in ("weight", "term", "tiny"):
            raise UserError(
                f"loss.{name}.{key}={entry[key]}: no such setting; {did_you_mean(str(key), ['weight', 'term'])}"
            )
    if not isinstance(entry.get("term"), Mapping):
        raise UserError(f"loss.{name}.term: no term here; is {name!r} one of the selected losses? Add it to loss=[...]")
    if "." in name or hasattr(nn.ModuleDict(), name):  # names of modules and their attributes share one space
        raise UserError(f"loss.{name}: this name cannot be used for a loss; choose another")
