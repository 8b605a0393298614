"""Quality against number of tokens: 1, 2, 4 ... all tokens per image, and image codecs at equal bytes."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ...common.distributed import gather_objects, process_count, rank
from ...common.pixels import psnr_from_mse, squared_error_per_image, to_pixels
from ...common.types import Latents
from ...tokenizers.token_dropout.base import TokenDropout
from ...tokenizers.token_dropout.prefixes import doubling_lengths, prefixes
from ..metrics.chosen import ChosenMetrics
from ..reconstruction import Reconstructed, Shapes
from .codec_comparison import CodecComparison
from .codecs import CODECS, MISSING
from .point import CurvePoint

SHOWN = 3  # images that the report shows at every length

Decode = Callable[[Latents, Sequence[int]], Tensor]  # codes, and their rows in the batch, to clamped [-1, 1]


@dataclass(frozen=True)
class GrowingPicture:
    key: str
    reference: Tensor  # uint8 [3, H, W]
    reconstructions: list[Tensor]  # one a length
    psnr: list[float]


class LengthCurve:
    """Over some of the evaluated images, spread evenly.

    wanted: images of all processes, None for all; available: those that this process will see, None if nobody knows.
    """

    def __init__(
        self,
        metrics: ChosenMetrics,
        dropout: TokenDropout,
        *,
        shapes: Shapes,
        wanted: int | None,
        available: int | None,
    ) -> None:
        self.dropout, self.protocol = dropout, metrics.protocol
        self.lengths = doubling_lengths(shapes.tokens)
        bits = [sum(math.log2(v) for v in s.vocabulary) for s in shapes.layout for _ in range(s.length)]
        self.bits = [sum(bits[:length]) for length in self.lengths] if bits else []
        share = own_share(wanted, available, rank(), process_count())
        self.wanted = share if available is None else min(share, available)
        self.available = self.wanted if available is None else available
        self.offered = self.images = 0
        self.pictures: list[GrowingPicture] = []  # for the report
        self.seconds = 0.0
        self.at = [CurvePoint(metrics) for _ in self.lengths]
        budgets = [b / 8 for b in self.bits]
        self.codecs = [CodecComparison(c, budgets=budgets, metrics=metrics) for c in CODECS if budgets and c.available]
        self.skipped = {c.name: MISSING.format(name=c.name) for c in CODECS if not c.available}

    def rows(self, count: int) -> list[int]:
        """Which of the next `count` images belong to the curve."""
        numbers = range(self.offered, min(self.offered + count, self.available))
        first, self.offered = self.offered, self.offered + count
        return [i - first for i in numbers if i * self.wanted % self.available < self.wanted]

    def update(self, shown: Reconstructed, keys: Sequence[str], *, decode: Decode) -> None:
        """One batch as the main pass has it: its codes are cut and decoded, nothing is encoded again."""
        rows = self.rows(len(keys))
        if not rows:
            return
        started = time.perf_counter()
        batch, chosen, chosen_keys = len(keys), shown.reference[rows], [keys[row] for row in rows]
        pairs = [(row, length) for length in self.lengths for row in rows]
        made = []
        for start in range(0, len(pairs), batch):  # as many at a time as fitted into memory a moment ago
            some, lengths = zip(*pairs[start : start + batch], strict=True)
            made.append(decode(prefixes(self.dropout, shown.quantized, some, lengths).codes, some))
        unrounded = torch.cat(made).unflatten(0, (len(self.lengths), len(rows)))
        pixels = to_pixels(unrounded, self.protocol.rounding)
        for point, seen, floats in zip(self.at, pixels, unrounded, strict=True):
            point.measure(chosen, seen, floats, chosen_keys)
        for codec in self.codecs:
            codec.update(chosen, chosen_keys)
        self._keep_pictures(chosen, pixels, chosen_keys)
        self.images += len(rows)
        self.seconds += time.perf_counter() - started

    def _keep_pictures(self, reference: Tensor, shown: Tensor, keys: Sequence[str]) -> None:
        for row, key in enumerate(keys):
            due = len(self.pictures) * max(1, self.wanted // SHOWN)
            if len(self.pictures) < SHOWN and self.images + row >= due:
                made = shown[:, row].cpu()
                pair = reference[row].cpu().expand_as(made), made
                values = psnr_from_mse(squared_error_per_image(*pair), self.protocol.psnr_cap).tolist()
                copies = [at.clone() for at in made]
                self.pictures.append(GrowingPicture(key, reference[row].cpu().clone(), copies, values))

    def join(self) -> None:
        """Images and seconds of all processes, each of which must call it."""
        pictures, seconds = zip(*gather_objects((self.pictures, self.seconds)), strict=True)
        self.pictures, self.seconds = list(chain.from_iterable(pictures))[:SHOWN], max(seconds)

    def result(self) -> dict[str, Any] | None:
        """What metrics.json has under `curve`, of all processes, each of which must call it; None without images."""
        images = self.at[0].count()
        if not images:
            return None
        points = []
        for i, length in enumerate(self.lengths):
            size = {"bits": self.bits[i], "bytes": self.bits[i] / 8} if self.bits else {}
            points.append({"tokens": length} | size | self.at[i].numbers(of=images))
        return {
            "images": images,
            "points": points,
            "codecs": {codec.name: codec.result() for codec in self.codecs},
            "codecs_skipped": dict(self.skipped) if self.bits else {},
            "seconds": self.seconds,
        }


def own_share(wanted: int | None, available: int | None, rank: int, world: int) -> int:
    """Images of one process; None wants all."""
    if wanted is None:
        return available if available is not None else 2**62
    return wanted // world + (rank < wanted % world)


def falling(curve: Mapping[str, Any]) -> list[str]:
    """A warning where more tokens give a worse image."""
    falls = [
        f"{b['tokens']:,} tokens ({b['psnr']:.2f} dB) show less than {a['tokens']:,} ({a['psnr']:.2f} dB)"
        for a, b in zip(curve["points"], curve["points"][1:], strict=False)
        if "psnr" in a and b["psnr"] < a["psnr"] - 0.005
    ]
    return [f"more tokens do not always help: {'; '.join(falls)}"] if falls else []
