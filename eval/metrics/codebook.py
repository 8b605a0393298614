"""Codebook usage: streaming histograms over every token, and what an image costs in bits.

"100 % usage" says nothing alone, so perplexity 2^H, dead codes, the mass of the most used 1 % and the ratio to the
usage that as many uniform draws would reach stand beside it. Entropies are of the pooled histogram; those by position
need many images, and cannot exceed log2(images).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...common.types import IndexSegment
from .base import Measured, Metric, Quantity, Row

MAX_BINS = 2**22  # beyond: sorted distinct ids with their counts instead of a histogram
MAX_POSITION_BINS = 2**23  # positions x entries, 64 MB of counts


def expected_distinct(entries: int, draws: int) -> float:
    """E[distinct ids] of uniform draws: V (1 - (1 - 1/V)^n), stable for V up to 2^62."""
    return -entries * math.expm1(draws * math.log1p(-1 / entries)) if entries > 1 else 1.0


def _entropy_bits(counts: Tensor) -> Tensor:
    """[rows, entries] to [rows]; an empty row has 0 bits."""
    p = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    return -torch.xlogy(p, p).sum(-1) / math.log(2) + 0.0


def _thinned(sorted_counts: Tensor, points: int = 256) -> list[list[float]]:
    """(rank, count) at log-spaced ranks, for the chart."""
    last = len(sorted_counts)
    ranks = torch.logspace(0, math.log10(last), points).round().long().unique().clamp(1, last)
    return [[int(r), int(sorted_counts[r - 1])] for r in ranks]


@dataclass(frozen=True)
class Book:
    """One codebook: the stream and the column of its indices, and where in the stream they stand."""

    name: str
    stream: str
    column: int
    spans: tuple[tuple[int, int], ...]
    entries: int

    @property
    def positions(self) -> int:
        return sum(stop - start for start, stop in self.spans)

    @property
    def dense(self) -> bool:
        """A histogram; else distinct ids with their counts."""
        return self.entries <= MAX_BINS

    @property
    def by_position(self) -> bool:
        return self.dense and self.entries * self.positions <= MAX_POSITION_BINS

    def ids(self, indices: Mapping[str, Tensor]) -> Tensor:
        """int64 [B, positions]; -1 where a sample has no token."""
        column = indices[self.stream][..., self.column]
        return torch.cat([column[:, a:b] for a, b in self.spans], dim=1)


def books_of(layout: Sequence[IndexSegment]) -> list[Book]:
    """Segments (scales) of a stream with the same vocabulary share their codebooks."""
    spans: dict[tuple[str, tuple[int, ...]], list[tuple[int, int]]] = {}
    offsets: dict[str, int] = {}
    for segment in layout:
        start = offsets.get(segment.stream, 0)
        offsets[segment.stream] = start + segment.length
        spans.setdefault((segment.stream, tuple(segment.vocabulary)), []).append((start, start + segment.length))
    streams = [stream for stream, _ in spans]
    books = []
    for number, ((stream, vocabulary), where) in enumerate(spans.items()):
        base = stream if streams.count(stream) == 1 else f"{stream}.{number}"
        for column, entries in enumerate(vocabulary):
            name = base if len(vocabulary) == 1 else f"{base}[{column}]"
            books.append(Book(name, stream, column, tuple(where), entries))
    return books


class Codebook(Metric):
    """Usage, perplexity and entropy of the codes, each a mean over the codebooks, and each codebook's own.

    layout: of the tokenizer's indices; in an evaluation it is known with the first batch.
    """

    on_curve = False
    group = "Codes"
    quantities = {
        "usage": Quantity("Usage", better="higher"),
        "perplexity": Quantity("Perplexity", better="higher", decimals=1),
        "code_entropy_bits": Quantity("Entropy", "bits", decimals=3),
    }
    images: Tensor
    result_keys = (*quantities, "codebooks", "bits_per_image", "rate")

    def __init__(self, *, layout: Sequence[IndexSegment] = (), **options: Any) -> None:
        super().__init__(**options)
        self.books: list[Book] = []
        self.measured_images = 0
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")
        if layout:
            self._use(layout)

    @property
    def main_key(self) -> str:
        return "codebooks"

    def start(self, image_size: tuple[int, int], layout: Sequence[IndexSegment]) -> str | None:
        if not layout:
            return "a continuous bottleneck has no indices"
        self._use(layout)
        return None

    def _use(self, layout: Sequence[IndexSegment]) -> None:
        self.books = books_of(layout)
        for i, book in enumerate(self.books):
            if book.dense:
                # One more bin takes the masked tokens: cheaper than a boolean selection, which waits for the device.
                bins = (book.positions if book.by_position else 1) * book.entries + 1
                zeros = torch.zeros(bins, dtype=torch.int64, device=self.device)
                self.add_state(f"bins_{i}", zeros, dist_reduce_fx="sum")
            else:
                self.add_rows(f"ids_{i}", torch.int64)
                self.add_rows(f"id_counts_{i}", torch.int64)

    def update(
        self, reference: Tensor | None = None, reconstruction: Tensor | None = None, *, indices: Mapping[str, Tensor]
    ) -> None:
        """indices: {stream: int64 [B, M, K]}. The images themselves tell nothing about codes."""
        indices = {stream: ids.to(self.device) for stream, ids in indices.items()}
        self.images = self.images + len(next(iter(indices.values())))
        for i, book in enumerate(self.books):
            ids = book.ids(indices)
            if book.dense:
                bins = getattr(self, f"bins_{i}")
                if book.by_position:
                    at = torch.arange(book.positions, device=ids.device) * book.entries
                    ids = torch.where(ids < 0, ids, ids + at)
                ids = torch.where(ids < 0, len(bins) - 1, ids).flatten()
                setattr(self, f"bins_{i}", bins.scatter_add(0, ids, torch.ones_like(ids)))
            else:
                self._add_ids(i, ids[ids >= 0])

    def _add_ids(self, i: int, ids: Tensor) -> None:
        kept, counts = getattr(self, f"ids_{i}"), getattr(self, f"id_counts_{i}")
        kept.append(ids)
        counts.append(torch.ones_like(ids))
        if len(kept) > 1 and sum(map(len, kept[1:])) > 2**20:
            unique, summed = _summed(torch.cat(kept), torch.cat(counts))
            setattr(self, f"ids_{i}", [unique])
            setattr(self, f"id_counts_{i}", [summed])

    def measure(self) -> dict[str, Any]:
        books = {book.name: self._facts(i, book) for i, book in enumerate(self.books)}
        keys = {"usage": "usage", "perplexity": "perplexity", "code_entropy_bits": "entropy_bits"}
        means = {key: sum(b[of] for b in books.values()) / len(books) for key, of in keys.items()}
        self.measured_images = int(self.images)  # of all processes, as the states are during this call only
        return means | {"codebooks": books}

    def _facts(self, i: int, book: Book) -> dict[str, Any]:
        if book.dense:
            table = getattr(self, f"bins_{i}")[:-1].view(-1, book.entries).cpu()
            counts = table.sum(0)
        else:
            table = None
            counts = _summed(self.rows_of(f"ids_{i}"), self.rows_of(f"id_counts_{i}"))[1].cpu()
        used = counts[counts > 0].sort(descending=True).values
        total = int(used.sum())
        entropy = _entropy_bits(used[None].double())[0].item()
        ceiling = expected_distinct(book.entries, total)
        facts = {
            "entries": book.entries,
            "tokens": total,
            "used": len(used),
            "usage": len(used) / book.entries,
            "usage_over_uniform_ceiling": len(used) / ceiling,
            "uniform_ceiling": ceiling / book.entries,
            "dead": book.entries - len(used),
            "entropy_bits": entropy,
            "perplexity": 2**entropy,
            "top_1_percent_mass": used[: max(1, round(book.entries / 100))].sum().item() / total,
            "enough_tokens": total >= 10 * book.entries,
            "sorted_counts": _thinned(used),
        }
        if table is not None and book.by_position and book.positions > 1:
            facts["entropy_bits_by_position"] = [round(h, 4) for h in _entropy_bits(table.double()).tolist()]
        return facts

    def entries(self, measured: Measured) -> dict[str, Any]:
        height, width = measured.image_size
        costs = self.rate(pixels=height * width)
        return self.result() | {"bits_per_image": costs["bits_per_image"], "rate": costs}

    def rate(self, *, pixels: int) -> dict[str, float]:
        """What an image of so many pixels costs: tokens, nominal bits, and bits of an ideal coder of these statistics.

        `entropy_coded_bits` codes every token with its codebook's pooled histogram; `..._by_position` with one
        histogram a position, a lower bound that many images are needed for (at most log2(images) a position).
        """
        facts = self.result()["codebooks"]
        images, counts = self.measured_images, {name: b["tokens"] for name, b in facts.items()}
        tokens = sum(counts[book.name] for book in self.books if book.column == 0) / images
        bits = sum(counts[book.name] * math.log2(book.entries) for book in self.books) / images
        coded = sum(b["entropy_bits"] * b["tokens"] for b in facts.values()) / images
        found = {
            "tokens": tokens,
            "bits_per_token": bits / tokens,
            "bits_per_image": bits,
            "bits_per_pixel": bits / pixels,
            "entropy_coded_bits": coded,
            "entropy_coded_bits_per_pixel": coded / pixels,
        }
        if all("entropy_bits_by_position" in b for b in facts.values()):
            found["entropy_coded_bits_by_position"] = sum(sum(b["entropy_bits_by_position"]) for b in facts.values())
        return found

    def warnings(self, entries: Mapping[str, Any]) -> list[str]:
        return [
            f"usage of {name}: {book['tokens']:,} tokens are fewer than 10 x {book['entries']:,} entries; uniform use "
            f"would show {book['uniform_ceiling']:.1%}, and this is {book['usage_over_uniform_ceiling']:.1%} of that"
            for name, book in entries["codebooks"].items()
            if not book["enough_tokens"]
        ]

    @classmethod
    def rows(cls, results: Mapping[str, Any]) -> Iterator[Row]:
        """Of each codebook, and of the rate."""
        if "codebooks" not in results:
            return
        books, rate = results["codebooks"], results["rate"]
        for name, book in books.items():
            which = "" if len(books) == 1 else f" {name}"
            used = f"{book['used']:,} of {book['entries']:,} entries, {book['dead']:,} dead"
            ceiling = f"{book['usage_over_uniform_ceiling']:.1%} of what {book['tokens']:,} uniform tokens would use"
            yield Row(cls.group, f"Usage{which}", f"{book['usage']:.2%}", "higher", f"{used}; {ceiling}")
            top = f"the most used 1% of entries hold {book['top_1_percent_mass']:.1%} of the tokens"
            yield Row(cls.group, f"Perplexity{which}", f"{book['perplexity']:,.1f}", "higher", top)
            full = f"{math.log2(book['entries']):.2f} bits if all entries were used equally"
            yield Row(cls.group, f"Entropy{which}", f"{book['entropy_bits']:.3f} bits", "", full)
        yield Row("Rate", "Tokens", f"{rate['tokens']:,.6g}", "", f"{rate['bits_per_token']:.4g} bits each")
        nominal = f"{rate['bits_per_pixel']:.4f} bits per pixel"
        yield Row("Rate", "Nominal bits", f"{rate['bits_per_image']:,.6g}", "lower", nominal)
        coded = f"{rate['entropy_coded_bits_per_pixel']:.4f} bits per pixel, ideal coder, pooled statistics"
        yield Row("Rate", "Entropy-coded bits", f"{rate['entropy_coded_bits']:,.1f}", "lower", coded)


def _summed(ids: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct ids, and how often each was counted."""
    unique, where = ids.unique(return_inverse=True)
    return unique, torch.zeros_like(unique).scatter_add_(0, where, counts)
