"""Our numbers in the words of stored training steps: loss terms and other outputs, read off an update that was seen."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .seen import Seen

Settings = Mapping[str, Any]
Value = Callable[[Seen], Tensor]


def weighted(*names: str) -> Value:
    """Sum of loss terms, each times its weight in the YAML."""
    return lambda seen: sum((seen.weighted(name) for name in names), start=seen.zero)


def raw(name: str, *, times: float = 1.0) -> Value:
    return lambda seen: times * seen.raw[name]


def of_stream(name: str, what: str) -> Value:
    """`indices`, the loss `commit`, or `codebook` or `counts` of the first codebook, of a parallel quantizer's part."""

    def value(seen: Seen) -> Tensor:
        if what == "indices":
            return seen.output.quantized.indices[name]
        return seen.streams[name].losses["commit"] if what == "commit" else getattr(seen.book(name), what)

    return value


def beside_teacher(term: str, compared: Callable[[Tensor, Tensor], Tensor]) -> Value:
    """Of what a teacher's term compares, ours and the teacher's."""
    return lambda seen: compared(*seen.beside_teacher(term))


def cosine(ours: Tensor, theirs: Tensor) -> Tensor:
    return F.cosine_similarity(ours, theirs, dim=-1).mean()


def shares_of_book(book: int) -> Value:
    """Of the batch's tokens, by code."""

    def value(seen: Seen) -> Tensor:
        indices = seen.output.quantized.indices["main"]
        if book >= indices.shape[-1]:
            raise KeyError(book)
        size = int(seen.tokenizer.quantizer.vocabulary[book])
        return torch.bincount(indices[..., book].flatten(), minlength=size) / indices[..., book].numel()

    return value


def perceptual(seen: Seen) -> Tensor:
    """Mean of TiTok's perceptual networks by their own weights 1 and 0.1: without the weight of the whole."""
    shares = {"lpips": 1.0, "convnext": 0.1}
    there = {name: share for name, share in shares.items() if name in seen.raw}
    return sum((share * seen.raw[name] for name, share in there.items()), start=seen.zero) / sum(there.values())


def usage_shares(seen: Seen) -> Tensor:
    """Of all tokens there, of an even spread here."""
    usage = seen.tokenizer.quantizer.revival.usage
    return usage / len(usage)


# -- how many updates are over -----------------------------------------------------------------------------------------


def finished(folder: Settings, config: Settings) -> int:
    return int(folder.get("global_step") or 0)


def one_less(folder: Settings, config: Settings) -> int:
    """Of loops that hand on the number of the update that is running, counted from 1."""
    return finished(folder, config) - 1


def middle_of_epoch(updates_an_epoch: int) -> Callable[[Settings, Settings], int]:
    """`update` says "epoch N, ..."; without one, before the first."""

    def update(folder: Settings, config: Settings) -> int:
        said = re.search(r"epoch (\d+)", str(folder.get("update", "")))
        return int((int(said[1]) + 0.5) * updates_an_epoch) if said else 0

    return update


def all_ramps_over(folder: Settings, config: Settings) -> int:
    """The first update after the discriminator's warm-up; 0 in a folder without one."""
    adversary = config["adversary"]
    return int(adversary["start"]) + int(adversary["ramp"]) if "discriminator_optimizer" in folder else 0
