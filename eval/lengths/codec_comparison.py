"""What a picture codec makes of the bytes that a tokenizer's prefixes have, on the same pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...common.pixels import to_model_range
from ..networks import Networks
from ..protocol import Protocol
from .codecs import CODECS, Ladder, header_bytes
from .point import CurvePoint


class CodecComparison:
    """Sums of one codec: its smallest files, and those nearest below each budget."""

    def __init__(self, name: str, *, budgets: Sequence[float], protocol: Protocol, networks: Networks) -> None:
        """budgets: bytes of a picture, growing."""
        self.name, self.budgets = name, list(budgets)
        self.smallest, *self.at = (CurvePoint(protocol=protocol, networks=networks) for _ in range(len(budgets) + 1))
        self.smallest_bytes = self.smallest_headers = 0
        self.bytes, self.quality = [0] * len(budgets), [0] * len(budgets)

    def update(self, reference: Tensor, keys: Sequence[str], networks: Networks) -> None:
        codec = next(c for c in CODECS if c.name == self.name)
        ladders = [Ladder(codec, pixels) for pixels in reference]
        smallest = [ladder.file(codec.lowest) for ladder in ladders]
        self.smallest_bytes += sum(map(len, smallest))
        self.smallest_headers += sum(map(header_bytes, smallest))
        everywhere = dict.fromkeys(range(len(ladders)), codec.lowest)
        _measure(self.smallest, ladders, everywhere, reference, keys, networks)
        for i, budget in enumerate(self.budgets):
            found = {row: ladder.nearest_below(budget) for row, ladder in enumerate(ladders)}
            fits = {row: quality for row, quality in found.items() if quality is not None}
            if fits:
                self.bytes[i] += sum(len(ladders[row].file(quality)) for row, quality in fits.items())
                self.quality[i] += sum(fits.values())
                _measure(self.at[i], ladders, fits, reference, keys, networks)

    def merge(self, other: "CodecComparison") -> None:
        self.smallest.merge(other.smallest)
        self.smallest_bytes += other.smallest_bytes
        self.smallest_headers += other.smallest_headers
        for i, point in enumerate(other.at):
            self.at[i].merge(point)
            self.bytes[i] += other.bytes[i]
            self.quality[i] += other.quality[i]

    def to_cpu(self) -> None:
        for point in (self.smallest, *self.at):
            point.to_cpu()

    def result(self, networks: Networks) -> dict[str, Any]:
        images, points = self.smallest.images, []
        for i, budget in enumerate(self.budgets):
            fit = self.at[i].images
            point: dict[str, Any] = {"budget_bytes": budget, "fit": fit}
            if fit:
                point |= {"bytes": self.bytes[i] / fit, "quality": self.quality[i] / fit}
                point |= self.at[i].numbers(networks, of=images)
            points.append(point)
        return {
            "encoder": next(c for c in CODECS if c.name == self.name).describe(),
            "smallest": {
                "bytes": self.smallest_bytes / images,
                "header_bytes": self.smallest_headers / images,
                **self.smallest.numbers(networks, of=images),
            },
            "points": points,
        }


def _measure(
    point: CurvePoint,
    ladders: Sequence[Ladder],
    qualities: Mapping[int, int],
    reference: Tensor,
    keys: Sequence[str],
    networks: Networks,
) -> None:
    """Decode {row: quality} and measure."""
    rows = list(qualities)
    pixels = torch.stack([ladders[row].decoded(quality) for row, quality in qualities.items()]).to(reference.device)
    some = reference if len(rows) == len(reference) else reference[rows]
    point.measure(some, pixels, to_model_range(pixels), [keys[row] for row in rows], networks)
