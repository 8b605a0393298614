"""An image codec at the bytes that a tokenizer's first tokens take, on the same images."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...common.pixels import to_model_range
from ..metrics.chosen import ChosenMetrics
from .codecs import Codec, Ladder, header_bytes
from .point import CurvePoint


class CodecComparison:
    """One codec: its smallest files, and those nearest below each budget."""

    def __init__(self, codec: Codec, *, budgets: Sequence[float], metrics: ChosenMetrics) -> None:
        """budgets: bytes per image, growing."""
        self.codec, self.budgets = codec, list(budgets)
        self.smallest = CurvePoint(metrics, "bytes", "header_bytes")
        self.at = [CurvePoint(metrics, "bytes", "quality") for _ in budgets]

    @property
    def name(self) -> str:
        return self.codec.name

    def update(self, reference: Tensor, keys: Sequence[str]) -> None:
        ladders = [Ladder(self.codec, pixels) for pixels in reference]

        def measure(point: CurvePoint, qualities: Mapping[int, int], **sums: int) -> None:
            """Decode {row: quality} and measure."""
            rows = list(qualities)
            pixels = torch.stack([ladders[row].decoded(qualities[row]) for row in rows]).to(reference.device)
            some = reference if len(rows) == len(reference) else reference[rows]
            size = sum(len(ladders[row].file(qualities[row])) for row in rows)
            point.measure(some, pixels, to_model_range(pixels), [keys[row] for row in rows], bytes=size, **sums)

        headers = sum(header_bytes(ladder.file(self.codec.lowest)) for ladder in ladders)
        measure(self.smallest, dict.fromkeys(range(len(ladders)), self.codec.lowest), header_bytes=headers)
        for point, budget in zip(self.at, self.budgets, strict=True):
            found = {row: ladder.nearest_below(budget) for row, ladder in enumerate(ladders)}
            fits = {row: quality for row, quality in found.items() if quality is not None}
            if fits:
                measure(point, fits, quality=sum(fits.values()))

    def result(self) -> dict[str, Any]:
        images, points = self.smallest.count(), []
        for at, budget in zip(self.at, self.budgets, strict=True):
            fit = at.count()
            point: dict[str, Any] = {"budget_bytes": budget, "fit": fit}
            if fit:
                point |= {name: at.count(name) / fit for name in ("bytes", "quality")} | at.numbers(of=images)
            points.append(point)
        means = {name: self.smallest.count(name) / images for name in ("bytes", "header_bytes")}
        return {
            "encoder": self.codec.describe(),
            "smallest": means | self.smallest.numbers(of=images),
            "points": points,
        }
