"""All semantic probes that the data and the tokenizer allow, each with its counts, protocol and path."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...common.weights import origins
from ..protocol import Protocol
from .alignment import Alignment
from .knn import PROTOCOL as KNN_PROTOCOL
from .knn import knn_predict
from .linear_probe import PROTOCOL as LINEAR_PROTOCOL
from .linear_probe import fit_linear_probe
from .pooled_codes import QUANTIZED, PooledCodes, pooled_codes
from .retrieval import recall_at_1
from .zero_shot import class_vectors, zero_shot_predict

LEAST_A_CLASS = 4  # fitting images, on average, without which a probe is noise


def linear_predict(features_ND: Tensor, fitted_MD: Tensor, labels_M: Tensor, *, classes: int) -> Tensor:
    return fit_linear_probe(fitted_MD, labels_M, classes=classes).predict(features_ND)


FITTED: dict[str, tuple[str, str, Callable[..., Tensor]]] = {
    "linear_probe": ("Linear probe", LINEAR_PROTOCOL, linear_predict),
    "knn": ("k-NN", KNN_PROTOCOL, knn_predict),
}


@dataclass(frozen=True, kw_only=True)
class MeaningData:
    """fit: images of the training split, for probes. held_out: those that are measured.

    prompts: class name to what a text tower may read about it. alignment: text towers and projections of the export.
    """

    fit: Iterable[Mapping[str, Any]] | None
    held_out: Iterable[Mapping[str, Any]]
    class_names: Sequence[str] = ()
    prompts: Callable[[str], Sequence[str]] = lambda name: [f"a photo of a {name}"]
    alignment: Alignment = field(default_factory=Alignment)


def meaning_of(
    data: Any, held_out: Iterable[Mapping[str, Any]], protocol: Protocol, *, fit: bool, alignment: Alignment
) -> MeaningData:
    """Of an ImageData. fit: False where the training images are among those that are measured."""
    return MeaningData(
        fit=data.fit_loader(protocol.probe_images) if fit and data.len_train else None,
        held_out=held_out,
        class_names=data.source.class_names,
        prompts=data.source.prompts,
        alignment=alignment,
    )


@dataclass(frozen=True, kw_only=True)
class Number:
    """Result of one probe, as metrics.json holds it. through_quantizer: None where inner features are read."""

    probe: str
    name: str
    value: float
    stream: str
    through_quantizer: bool | None
    n: int
    fitted_on: int | None = None
    chance: float | None = None
    protocol: str
    random_weights: bool = False


@dataclass
class Meaning:
    """numbers: plain dicts for metrics.json. not_computed: why a probe that was asked for by name is absent."""

    numbers: list[dict[str, Any]] = field(default_factory=list)
    not_computed: dict[str, str] = field(default_factory=dict)

    def add(self, probes: Iterable[str], found: list[Number] | str) -> None:
        """found: what they measured, or the reason why they could not."""
        if isinstance(found, str):
            self.not_computed |= dict.fromkeys(probes, found)
        else:
            self.numbers += map(asdict, found)


def measure_meaning(tokenizer: nn.Module, data: MeaningData, *, probes: Sequence[str], device: torch.device) -> Meaning:
    """tokenizer: on `device`, in eval mode. Deterministic."""
    alignment, meaning = data.alignment, Meaning()
    terms: dict[str, Any] = {n: t.to(device) for n, t in alignment.terms.items()}
    modes = {name: term.training for name, term in terms.items()}
    for term in terms.values():
        term.eval()
    held_out = pooled_codes(tokenizer, data.held_out, device=device, terms=terms)
    fitted, with_text = ([p for p in some if p in probes] for some in (FITTED, ("zero_shot", "retrieval")))
    if fitted:
        meaning.add(fitted, _fitted_numbers(fitted, tokenizer, data, held_out, device))
    for name, vectors in held_out.vectors.items():
        facts = _facts(terms[name], random=name in alignment.random)
        for probe in with_text:
            measure = _zero_shot_numbers if probe == "zero_shot" else _retrieval_numbers
            meaning.add([probe], measure(terms[name], vectors, held_out, data, facts))
    if not held_out.vectors:
        meaning.add(with_text, "no alignment/ with a text tower lies beside this export; a contrastive loss trains one")
    if "teacher_cosine" in probes:
        for name, cosine_N in held_out.cosines.items():
            meaning.add(["teacher_cosine"], [_cosine_number(name, terms[name], cosine_N, alignment)])
        if not held_out.cosines:
            missing = "; ".join(alignment.missing.values())
            meaning.add(["teacher_cosine"], missing or "no loss compared these codes with a teacher")
    for name, term in terms.items():
        term.train(modes[name])
    return meaning


def _facts(term: Any, *, random: bool) -> dict[str, Any]:
    reading = term.reading
    return {"stream": reading.name, "through_quantizer": reading.through_quantizer, "random_weights": random}


def _cosine_number(name: str, term: Any, cosine_N: Tensor, alignment: Alignment) -> Number:
    marks = sorted({f"[{found.label}]" for found in origins(term) if found.label and not found.random})
    return Number(
        probe="teacher_cosine",
        name=f"Cosine to {term.compared_with}{''.join(marks)}",
        value=float(cosine_N.double().mean()),
        n=len(cosine_N),
        protocol=f"mean over images of what loss.{name} compares, {' and '.join(term.compare)}",
        **_facts(term, random=name in alignment.random),
    )


def _fitted_numbers(
    wanted: Sequence[str], tokenizer: nn.Module, data: MeaningData, held_out: PooledCodes, device: torch.device
) -> list[Number] | str:
    labelled = held_out.classes >= 0
    classes = max(len(data.class_names), 1 + int(held_out.classes.max()))
    if not bool(labelled.any()):
        return "these images have no labels"
    if data.fit is None:
        return "no training split to fit a probe on: every image is measured"
    fit = pooled_codes(tokenizer, data.fit, device=device)
    known = fit.classes >= 0
    if int(known.sum()) < LEAST_A_CLASS * classes:
        return f"{int(known.sum())} labelled training images are too few for {classes} classes"
    labels, truth = fit.classes[known], held_out.classes[labelled]
    most_common = int(labels.bincount(minlength=classes).argmax())
    numbers = []
    for (when, stream), features in fit.codes.items():
        for probe in wanted:
            name, protocol, predict = FITTED[probe]
            predicted = predict(held_out.codes[when, stream][labelled], features[known], labels, classes=classes)
            numbers.append(
                Number(
                    probe=probe,
                    name=name,
                    value=_share(predicted == truth),
                    n=len(truth),
                    fitted_on=len(labels),
                    stream=stream,
                    through_quantizer=when == QUANTIZED,
                    chance=_share(truth == most_common),
                    protocol=f"mean code, {protocol}",
                )
            )
    return numbers


@torch.inference_mode()
def _zero_shot_numbers(
    term: Any, vectors_ND: Tensor, held_out: PooledCodes, data: MeaningData, facts: Mapping[str, Any]
) -> list[Number] | str:
    labelled = held_out.classes >= 0
    if not data.class_names or not bool(labelled.any()):
        return "these images have no labels with names"
    prompts = [list(data.prompts(name)) for name in data.class_names]
    truth = held_out.classes[labelled]
    classes_CD = class_vectors(lambda some: term.texts(some).float().cpu(), prompts)
    number = Number(
        probe="zero_shot",
        name="Zero-shot accuracy",
        value=_share(zero_shot_predict(vectors_ND[labelled], classes_CD) == truth),
        n=len(truth),
        chance=1 / len(data.class_names),
        protocol=f"{len(prompts)} classes by the mean of {len(prompts[0])} prompts' text vectors",
        **facts,
    )
    return [number]


@torch.inference_mode()
def _retrieval_numbers(
    term: Any, vectors_ND: Tensor, held_out: PooledCodes, data: MeaningData, facts: Mapping[str, Any]
) -> list[Number] | str:
    captioned = {row: caption for row, caption in enumerate(held_out.captions) if caption}
    if len(captioned) < 2:
        return "these images have no captions"
    captions, count = list(captioned.values()), len(captioned)
    texts_ND = torch.cat([term.texts(captions[i : i + 256]).float().cpu() for i in range(0, count, 256)])
    recalls = recall_at_1(vectors_ND[list(captioned)], texts_ND, captions)
    return [
        Number(
            probe="retrieval",
            name=f"Retrieval R@1, {direction}",
            value=value,
            n=count,
            chance=1 / count,
            protocol=f"one in {count} by cosine",
            **facts,
        )
        for direction, value in zip(("image to text", "text to image"), recalls, strict=True)
    ]


def _share(right_N: Tensor) -> float:
    return float(right_N.double().mean())
