"""What an update of several devices and micro-batches has to be, to be the published one; checked before the first."""

import re
from collections.abc import Iterable, Iterator

from torch import nn

from ..common.console import say
from ..common.errors import UserError
from ..data.batch_division import BatchDivision
from ..losses.adversarial.adversary import Adversary
from ..losses.base import LossTerm
from ..losses.total import WeightedLosses
from ..tokenizers.quantizers.base import Quantizer
from ..tokenizers.tokenizer import Tokenizer


def check_division(
    division: BatchDivision, *, tokenizer: Tokenizer, losses: WeightedLosses, adversary: Adversary | None
) -> None:
    """UserError for the first part that does not fit; a note where batch norm sees micro-batches."""
    quantizers = [(_key(name), m) for name, m in tokenizer.quantizer.named_modules() if isinstance(m, Quantizer)]
    trained = [] if "quantizer" in tokenizer.frozen else quantizers
    entropies = list(_with_entropy(q for _, q in trained)) if _counts(losses, "entropy") else []
    for quantizer in entropies:
        _check_groups("tokenizer.quantizer.entropy_images", getattr(quantizer, "entropy_images", None), division)
    if adversary is not None and adversary.lecam is not None:
        _check_groups("adversary.lecam.images", adversary.lecam.images, division)
    if division.accumulate == 1:
        return
    reasons = [f"{key}{reason}" for key, q in trained if (reason := q.micro_batch_misfit())]
    if any(getattr(quantizer, "entropy_images", None) is None for quantizer in entropies):
        reasons.append(
            "tokenizer.quantizer.entropy_images=null: H(code) is that of all codes of an update; say of how many "
            "images, where the quantizer has it: +tokenizer.quantizer.entropy_images=8; or loss.entropy=null"
        )
    for name, term in losses.terms.items():
        assert isinstance(term, LossTerm)
        if losses.weights[name].ever and (reason := term.micro_batch_misfit()):
            reasons.append(f"loss.{name}{reason}")
    if adversary is not None and (reason := adversary.micro_batch_misfit()):
        reasons.append(f"adversary{reason}")
    if reasons:
        raise UserError(
            f"{reasons[0]} (or one micro-batch an update: trainer.accumulate={division.accumulate} comes from "
            f"data.batch_size={division.images}, {division.processes} process(es) and {division.per_device} images "
            "at once)"
        )
    networks = {"tokenizer": tokenizer, "adversary": adversary}
    normed = [name for name, network in networks.items() if network is not None and _has_batch_norm(network)]
    if normed:
        what = f"batch norm in {' and '.join(normed)} takes the statistics of each micro-batch"
        say(f"note: trainer.accumulate={division.accumulate}: {what}, {division.per_device} images", error=True)


def _check_groups(key: str, images: int | None, division: BatchDivision) -> None:
    """A group lies on one device, or is the whole update of one micro-batch."""
    here = division.per_device
    if images is None or here % images == 0 or (division.images <= images and division.accumulate == 1):
        return
    whole = -(-here // images) * images
    words = f"data.batch_size={whole * division.processes * division.accumulate}"
    words += f" data.batch_per_device={whole}" if division.accumulate > 1 else ""
    raise UserError(
        f"{key}={images}: a device takes {here} images at once (data.batch_size={division.images}, "
        f"{division.processes} process(es), {division.accumulate} micro-batch(es)), which are no whole groups; give it "
        f"a multiple, as {words}, or {key}={here}"
    )


def _key(name: str) -> str:
    """Where the YAML has it: parts of a product are copies of one node, and books have none."""
    name = re.sub(r"(^|\.)parts\.\d+", r"\1part", name)
    return ".".join(["tokenizer.quantizer", *re.findall(r"part|quantizers\.\w+", name)])


def _with_entropy(quantizers: Iterable[Quantizer]) -> Iterator[Quantizer]:
    """Those that compute it themselves, and not through parts of their own."""
    for quantizer in quantizers:
        inner = [m for m in quantizer.modules() if m is not quantizer and isinstance(m, Quantizer)]
        if "entropy" in quantizer.loss_names and not any("entropy" in m.loss_names for m in inner):
            yield quantizer


def _counts(losses: WeightedLosses, key: str) -> bool:
    """Whether a term weighs this loss of the quantizer."""
    return any(getattr(term, "key", None) == key and losses.weights[name].ever for name, term in losses.terms.items())


def _has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.weight is not None for m in network.modules())
