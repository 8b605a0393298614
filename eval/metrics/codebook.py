"""How the codes are used: streaming histograms over every token of the pass.

"100 % usage" says nothing alone, so perplexity 2^H, dead codes, the mass of the most used 1 % and the ratio to the
usage that as many uniform draws would reach stand beside it. Entropies are of the pooled histogram; those by position
need many images, and cannot exceed log2(images).
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...common.types import IndexSegment

MAX_BINS = 2**22  # beyond: sorted distinct ids with their counts instead of a histogram
MAX_POSITION_BINS = 2**23  # positions x entries, 64 MB of counts


def expected_distinct(entries: int, draws: int) -> float:
    """E[distinct ids] of uniform draws: V (1 - (1 - 1/V)^n), stable for V up to 2^62."""
    return -entries * math.expm1(draws * math.log1p(-1 / entries)) if entries > 1 else 1.0


class CodeCounts:
    """Counts of one codebook: a histogram (by position where cheap), or distinct ids where it would not fit."""

    def __init__(self, *, entries: int, positions: int) -> None:
        self.entries, self.positions = entries, positions
        self.by_position = entries * positions <= MAX_POSITION_BINS
        self.dense = entries <= MAX_BINS
        self.bins: Tensor | None = None
        self.ids: Tensor | None = None
        self.id_counts: Tensor | None = None
        self.fresh: list[Tensor] = []

    def update(self, ids: Tensor) -> None:
        """int64 [B, positions]; -1 where a sample has no token."""
        if not self.dense:
            self.fresh.append(ids[ids >= 0])
            if sum(map(len, self.fresh)) > 2**20:
                self._settle()
            return
        rows = self.positions if self.by_position else 1
        if self.bins is None:
            # One more bin takes the masked tokens: cheaper than a boolean selection, which would wait for the device.
            self.bins = torch.zeros(rows * self.entries + 1, dtype=torch.int64, device=ids.device)
        flat = ids
        if self.by_position:
            flat = ids + torch.arange(self.positions, device=ids.device) * self.entries
        flat = torch.where(ids < 0, len(self.bins) - 1, flat).flatten()
        self.bins.scatter_add_(0, flat, torch.ones_like(flat))

    def merge(self, other: "CodeCounts") -> None:
        if other.bins is not None:
            self.bins = other.bins if self.bins is None else self.bins + other.bins
        other._settle()
        if other.ids is not None:
            self._settle()
            self._add(other.ids, other.id_counts)

    def to_cpu(self) -> "CodeCounts":
        self._settle()
        for name in ("bins", "ids", "id_counts"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name).cpu())
        return self

    def _settle(self) -> None:
        if self.fresh:
            ids, counts = torch.cat(self.fresh).unique(return_counts=True)
            self.fresh = []
            self._add(ids, counts)

    def _add(self, ids: Tensor, counts: Tensor) -> None:
        if self.ids is not None:
            ids, where = torch.cat([self.ids, ids]).unique(return_inverse=True)
            counts = torch.zeros_like(ids).scatter_add_(0, where, torch.cat([self.id_counts, counts]))
        self.ids, self.id_counts = ids, counts

    def result(self) -> dict:
        self._settle()
        facts: dict = {"entries": self.entries}
        if self.dense:
            table = self.bins[:-1].view(-1, self.entries).cpu()
            counts = table.sum(0)
        else:
            table, counts = None, self.id_counts.cpu()
        counts = counts.sort(descending=True).values
        used = counts[counts > 0]
        total = int(used.sum())
        entropy = _entropy_bits(used[None].double())[0].item()
        ceiling = expected_distinct(self.entries, total)
        facts |= {
            "tokens": total,
            "used": len(used),
            "usage": len(used) / self.entries,
            "usage_over_uniform_ceiling": len(used) / ceiling,
            "uniform_ceiling": ceiling / self.entries,
            "dead": self.entries - len(used),
            "entropy_bits": entropy,
            "perplexity": 2**entropy,
            "top_1_percent_mass": used[: max(1, round(self.entries / 100))].sum().item() / total,
            "enough_tokens": total >= 10 * self.entries,
            "sorted_counts": _thinned(used),
        }
        if table is not None and self.by_position and self.positions > 1:
            facts["entropy_bits_by_position"] = [round(h, 4) for h in _entropy_bits(table.double()).tolist()]
        return facts


def _entropy_bits(counts: Tensor) -> Tensor:
    """[rows, entries] to [rows]; an empty row has 0 bits."""
    p = counts / counts.sum(-1, keepdim=True).clamp(min=1)
    return -torch.xlogy(p, p).sum(-1) / math.log(2) + 0.0


def _thinned(sorted_counts: Tensor, points: int = 256) -> list[list[float]]:
    """(rank, count) at log-spaced ranks, for the chart."""
    ranks = (
        torch.logspace(0, math.log10(len(sorted_counts)), points).round().long().unique().clamp(1, len(sorted_counts))
    )
    return [[int(r), int(sorted_counts[r - 1])] for r in ranks]


class CodebookStatistics:
    """One CodeCounts a codebook. Segments (scales) of a stream with the same vocabulary share theirs."""

    def __init__(self, layout: Sequence[IndexSegment]) -> None:
        self.slices: list[tuple[str, int, int, int, str]] = []  # stream, start, stop, k, name
        self.books: dict[str, CodeCounts] = {}
        groups: dict[tuple[str, tuple[int, ...]], list[tuple[int, int]]] = {}
        offsets: dict[str, int] = {}
        for segment in layout:
            start = offsets.get(segment.stream, 0)
            offsets[segment.stream] = start + segment.length
            groups.setdefault((segment.stream, segment.vocabulary), []).append((start, start + segment.length))
        names = [stream for stream, _ in groups]
        self.groups: list[tuple[str, list[tuple[int, int]], list[str]]] = []
        for number, ((stream, vocabulary), spans) in enumerate(groups.items()):
            base = stream if names.count(stream) == 1 else f"{stream}.{number}"
            books = [base if len(vocabulary) == 1 else f"{base}[{k}]" for k in range(len(vocabulary))]
            for name, entries in zip(books, vocabulary, strict=True):
                self.books[name] = CodeCounts(entries=entries, positions=sum(b - a for a, b in spans))
            self.groups.append((stream, spans, books))
        self.images = 0
        self.tokens: Tensor | int = 0  # positions that hold a token, summed over images
        self.nominal_bits: Tensor | float = 0.0

    def update(self, indices: Mapping[str, Tensor]) -> None:
        """{stream: int64 [B, M, K]}"""
        self.images += len(next(iter(indices.values())))
        for stream, spans, books in self.groups:
            ids = indices[stream]
            part = torch.cat([ids[:, a:b] for a, b in spans], dim=1) if len(spans) > 1 else ids[:, slice(*spans[0])]
            present = (part[..., 0] >= 0).sum()
            self.tokens = self.tokens + present
            self.nominal_bits = self.nominal_bits + present * sum(math.log2(self.books[n].entries) for n in books)
            for k, name in enumerate(books):
                self.books[name].update(part[..., k])

    def merge(self, other: "CodebookStatistics") -> None:
        self.images += other.images
        self.tokens, self.nominal_bits = self.tokens + other.tokens, self.nominal_bits + other.nominal_bits
        for name, book in self.books.items():
            book.merge(other.books[name])

    def to_cpu(self) -> "CodebookStatistics":
        self.tokens, self.nominal_bits = int(self.tokens), float(self.nominal_bits)
        for book in self.books.values():
            book.to_cpu()
        return self

    def result(self) -> dict:
        """`usage` and `perplexity` are means over the codebooks; `codebooks` has each."""
        books = {name: counts.result() for name, counts in self.books.items()}
        mean = {
            key: sum(b[key] for b in books.values()) / len(books) for key in ("usage", "perplexity", "entropy_bits")
        }
        return {
            "usage": mean["usage"],
            "perplexity": mean["perplexity"],
            "code_entropy_bits": mean["entropy_bits"],
            "codebooks": books,
        }
