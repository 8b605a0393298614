"""Quality against tokens: a tokenizer of variable length at 1, 2, 4 ... all, and picture codecs at equal bytes."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...common.pixels import psnr_from_mse, squared_error_per_image, to_pixels
from ...common.types import IndexSegment, Latents, Quantized
from ...tokenizers.token_dropout.base import TokenDropout
from ...tokenizers.token_dropout.prefixes import doubling_lengths, prefixes
from ..networks import Networks
from ..protocol import Protocol
from .codec_comparison import CodecComparison
from .codecs import CODECS, MISSING
from .point import CurvePoint, OnceAReference

SHOWN = 3  # pictures that the report shows at every length

Decode = Callable[[Latents, Sequence[int]], Tensor]  # codes, and their rows in the batch, to clamped [-1, 1]


@dataclass(frozen=True)
class GrowingPicture:
    key: str
    reference: Tensor  # uint8 [3, H, W]
    reconstructions: list[Tensor]  # one a length
    psnr: list[float]


class LengthCurve:
    """Sums over some of the evaluated pictures, spread evenly. Holds no network, so it travels between processes.

    wanted: pictures of this process; available: those that it will see, None where nobody knows.
    total: tokens of a picture; layout: of its indices, empty where the bottleneck is continuous.
    """

    def __init__(
        self,
        *,
        protocol: Protocol,
        networks: Networks,
        layout: Sequence[IndexSegment],
        total: int,
        wanted: int,
        available: int | None,
    ) -> None:
        self.protocol = protocol
        self.lengths = doubling_lengths(total)
        bits = [sum(math.log2(v) for v in segment.vocabulary) for segment in layout for _ in range(segment.length)]
        self.bits = [sum(bits[:length]) for length in self.lengths] if bits else []
        self.wanted = wanted if available is None else min(wanted, available)
        self.available = self.wanted if available is None else available
        self.offered = self.images = 0
        self.seconds = 0.0
        self.pictures: list[GrowingPicture] = []
        self.at = [CurvePoint(protocol=protocol, networks=networks) for _ in self.lengths]
        budgets = [b / 8 for b in self.bits]
        made = {"budgets": budgets, "protocol": protocol, "networks": networks}
        self.codecs = {c.name: CodecComparison(c.name, **made) for c in CODECS if budgets and c.available}
        self.skipped = {c.name: MISSING.format(name=c.name) for c in CODECS if not c.available}

    def rows(self, count: int) -> list[int]:
        """Which of the next `count` pictures belong to the curve."""
        numbers = range(self.offered, min(self.offered + count, self.available))
        first, self.offered = self.offered, self.offered + count
        return [i - first for i in numbers if i * self.wanted % self.available < self.wanted]

    def update(
        self,
        *,
        dropout: TokenDropout,
        quantized: Quantized,
        reference: Tensor,
        keys: Sequence[str],
        decode: Decode,
        networks: Networks,
    ) -> None:
        """One batch as the main pass has it: its codes are cut and decoded, nothing is encoded again."""
        rows = self.rows(len(reference))
        if not rows:
            return
        started = time.perf_counter()
        batch, chosen, chosen_keys = len(reference), reference[rows], [keys[row] for row in rows]
        if networks.extractor is not None:
            networks = replace(networks, extractor=OnceAReference(networks.extractor, chosen))
        pairs = [(row, length) for length in self.lengths for row in rows]
        made = []
        for start in range(0, len(pairs), batch):  # as many at a time as fitted into memory a moment ago
            some, lengths = zip(*pairs[start : start + batch], strict=True)
            made.append(decode(prefixes(dropout, quantized, some, lengths).codes, some))
        unrounded = torch.cat(made).unflatten(0, (len(self.lengths), len(rows)))
        shown = to_pixels(unrounded, self.protocol.rounding)
        for point, pixels, floats in zip(self.at, shown, unrounded, strict=True):
            point.measure(chosen, pixels, floats, chosen_keys, networks)
        for codec in self.codecs.values():
            codec.update(chosen, chosen_keys, networks)
        self._keep_pictures(chosen, shown, chosen_keys)
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

    def merge(self, other: "LengthCurve") -> None:
        self.images += other.images
        self.seconds = max(self.seconds, other.seconds)
        for mine, theirs in zip(self.at, other.at, strict=True):
            mine.merge(theirs)
        for name, codec in self.codecs.items():
            codec.merge(other.codecs[name])
        self.pictures = (self.pictures + other.pictures)[:SHOWN]

    def to_cpu(self) -> "LengthCurve":
        for point in self.at:
            point.to_cpu()
        for codec in self.codecs.values():
            codec.to_cpu()
        return self

    def result(self, networks: Networks) -> dict[str, Any]:
        """What metrics.json has under `curve`; of the joined sums."""
        points = []
        for i, length in enumerate(self.lengths):
            size = {"bits": self.bits[i], "bytes": self.bits[i] / 8} if self.bits else {}
            points.append({"tokens": length} | size | self.at[i].numbers(networks, of=self.images))
        codecs = {name: codec.result(networks) for name, codec in self.codecs.items()}
        return {
            "images": self.images,
            "points": points,
            "codecs": codecs,
            "codecs_skipped": dict(self.skipped) if self.bits else {},
            "seconds": self.seconds,
        }


def own_share(wanted: int | None, available: int | None, rank: int, world: int) -> int:
    """Pictures of one process; None wants all."""
    if wanted is None:
        return available if available is not None else 2**62
    return wanted // world + (rank < wanted % world)


def joined(curves: Sequence[LengthCurve | None]) -> LengthCurve | None:
    """The sums of all processes as one; a process without pictures has none."""
    present = [curve for curve in curves if curve is not None and curve.images]
    for other in present[1:]:
        present[0].merge(other)
    return present[0] if present else None


def falling(curve: Mapping[str, Any]) -> list[str]:
    """A warning where more tokens give a worse picture."""
    falls = [
        f"{b['tokens']:,} tokens ({b['psnr']:.2f} dB) show less than {a['tokens']:,} ({a['psnr']:.2f} dB)"
        for a, b in zip(curve["points"], curve["points"][1:], strict=False)
        if "psnr" in a and b["psnr"] < a["psnr"] - 0.005
    ]
    return [f"more tokens do not always help: {'; '.join(falls)}"] if falls else []
