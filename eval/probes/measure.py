"""All semantic probes that the data and the tokenizer allow, each with its counts, protocol and path."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

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


@dataclass
class Meaning:
    """numbers: plain dicts for metrics.json. not_computed: why a probe that was asked for by name is absent."""

    numbers: list[dict[str, Any]] = field(default_factory=list)
    not_computed: dict[str, str] = field(default_factory=dict)


def measure_meaning(
    tokenizer: nn.Module,
    data: MeaningData,
    *,
    probes: Sequence[str],
    device: torch.device,
) -> Meaning:
    """tokenizer: on `device`, in eval mode. Deterministic."""
    alignment, meaning = data.alignment, Meaning()
    terms: dict[str, Any] = {n: t.to(device) for n, t in alignment.terms.items()}
    modes = {name: term.training for name, term in terms.items()}
    for term in terms.values():
        term.eval()
    held_out = pooled_codes(tokenizer, data.held_out, device=device, terms=terms)
    wanted = [p for p in ("linear_probe", "knn") if p in probes]
    if wanted:
        _fitted_probes(meaning, wanted, tokenizer, data, held_out, device)
    for name, vectors in held_out.vectors.items():
        _text_probes(meaning, probes, name, terms[name], vectors, held_out, data, alignment)
    if not held_out.vectors:
        reason = "no alignment/ with a text tower lies beside this export; a contrastive loss trains one"
        meaning.not_computed |= dict.fromkeys((p for p in ("zero_shot", "retrieval") if p in probes), reason)
    if "teacher_cosine" in probes:
        for name, cosine_N in held_out.cosines.items():
            _add(
                meaning,
                "teacher_cosine",
                f"Cosine to {terms[name].compared_with}",
                float(cosine_N.double().mean()),
                n=len(cosine_N),
                stream=terms[name].reading.name,
                through_quantizer=terms[name].reading.through_quantizer,
                protocol=f"mean over images of what loss.{name} compares, {' and '.join(terms[name].compare)}",
                random=name in alignment.random,
            )
        if not held_out.cosines:
            missing = "; ".join(alignment.missing.values())
            meaning.not_computed["teacher_cosine"] = missing or "no loss compared these codes with a teacher"
    for name, term in terms.items():
        term.train(modes[name])
    return meaning


def _fitted_probes(
    meaning: Meaning,
    wanted: Sequence[str],
    tokenizer: nn.Module,
    data: MeaningData,
    held_out: PooledCodes,
    device: torch.device,
) -> None:
    labelled = held_out.classes >= 0
    classes = max(len(data.class_names), 1 + int(held_out.classes.max()))
    reason = None
    if not bool(labelled.any()):
        reason = "these images have no labels"
    elif data.fit is None:
        reason = "no training split to fit a probe on: every image is measured"
    else:
        fit = pooled_codes(tokenizer, data.fit, device=device)
        known = fit.classes >= 0
        if int(known.sum()) < LEAST_A_CLASS * classes:
            reason = f"{int(known.sum())} labelled training images are too few for {classes} classes"
    if reason is not None:
        meaning.not_computed |= dict.fromkeys(wanted, reason)
        return
    labels, truth = fit.classes[known], held_out.classes[labelled]
    most_common = int(labels.bincount(minlength=classes).argmax())
    chance = float((truth == most_common).double().mean())
    for (when, stream), features in fit.codes.items():
        fitted, asked = features[known], held_out.codes[when, stream][labelled]
        for probe in wanted:
            if probe == "linear_probe":
                predicted = fit_linear_probe(fitted, labels, classes=classes).predict(asked)
            else:
                predicted = knn_predict(asked, fitted, labels, classes=classes)
            _add(
                meaning,
                probe,
                "Linear probe" if probe == "linear_probe" else "k-NN",
                float((predicted == truth).double().mean()),
                n=len(truth),
                fitted_on=len(labels),
                stream=stream,
                through_quantizer=when == QUANTIZED,
                chance=chance,
                protocol=f"mean code, {LINEAR_PROTOCOL if probe == 'linear_probe' else KNN_PROTOCOL}",
            )


@torch.inference_mode()
def _text_probes(
    meaning: Meaning,
    probes: Sequence[str],
    name: str,
    term: Any,
    vectors_ND: Tensor,
    held_out: PooledCodes,
    data: MeaningData,
    alignment: Alignment,
) -> None:
    def texts(captions: Sequence[str]) -> Tensor:
        return term.texts(captions).float().cpu()

    facts: dict[str, Any] = {
        "stream": term.reading.name,
        "through_quantizer": term.reading.through_quantizer,
        "random": name in alignment.random,
    }
    labelled = held_out.classes >= 0
    if "zero_shot" in probes and data.class_names and bool(labelled.any()):
        prompts = [list(data.prompts(c)) for c in data.class_names]
        truth = held_out.classes[labelled]
        predicted = zero_shot_predict(vectors_ND[labelled], class_vectors(texts, prompts))
        _add(
            meaning,
            "zero_shot",
            "Zero-shot accuracy",
            float((predicted == truth).double().mean()),
            n=len(truth),
            chance=1 / len(data.class_names),
            protocol=f"{len(prompts)} classes by the mean of {len(prompts[0])} prompts' text vectors",
            **facts,
        )
    elif "zero_shot" in probes:
        meaning.not_computed["zero_shot"] = "these images have no labels with names"
    there, captions = [], []
    for i, caption in enumerate(held_out.captions):
        if caption:
            there.append(i)
            captions.append(caption)
    if "retrieval" in probes and len(there) > 1:
        read = torch.cat([texts(captions[i : i + 256]) for i in range(0, len(captions), 256)])
        recalls = recall_at_1(vectors_ND[there], read, captions)
        for direction, value in zip(("image to text", "text to image"), recalls, strict=True):
            _add(
                meaning,
                "retrieval",
                f"Retrieval R@1, {direction}",
                value,
                n=len(there),
                chance=1 / len(there),
                protocol=f"one in {len(there)} by cosine",
                **facts,
            )
    elif "retrieval" in probes:
        meaning.not_computed["retrieval"] = "these images have no captions"


def _add(
    meaning: Meaning,
    probe: str,
    name: str,
    value: float,
    *,
    n: int,
    stream: str,
    through_quantizer: bool | None,
    protocol: str,
    fitted_on: int | None = None,
    chance: float | None = None,
    random: bool = False,
) -> None:
    meaning.numbers.append(
        {
            "probe": probe,
            "name": name,
            "value": value,
            "stream": stream,
            "through_quantizer": through_quantizer,
            "n": n,
            "fitted_on": fitted_on,
            "chance": chance,
            "protocol": protocol,
            "random_weights": random,
        }
    )
