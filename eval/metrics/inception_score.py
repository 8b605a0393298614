"""Inception Score (Salimans et al. 2016), streamed: exp of the mean KL between p(class|image) and its mean.

Class-sorted files scored in chunks of file order read 6 where shuffled ones read 14, so an image's split is decided by
a hash of its key and the seed: shuffled, the same for every batch size, file order and number of processes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...common.types import IndexSegment
from .base import Quantity
from .features import INCEPTION, SIDES, FeatureMetric, number_of
from .inception import CLASSES
from .networks import Network


def split_of(key: str, *, splits: int, seed: int) -> int:
    return number_of(key, seed=seed) % splits


class InceptionScore(FeatureMetric):
    """Of the reconstructions, with that of the originals beside it."""

    higher_is_better = True
    on_curve = False
    keeps_rows = False
    quantities = {"inception_score": Quantity("Inception Score", better="higher", decimals=3)}
    protocol_fields = FeatureMetric.protocol_fields | {"splits": "inception_splits", "seed": "inception_seed"}

    def __init__(self, *, extractor: Network | None = None, splits: int = 10, seed: int = 0, **options: Any) -> None:
        super().__init__(extractor=extractor, **options)
        self.splits, self.seed = splits, seed
        for side in SIDES:
            for name, shape in (("p", (splits, CLASSES)), ("plogp", (splits,)), ("count", (splits,))):
                zeros = torch.zeros(shape, dtype=torch.float64)
                self.add_state(f"{side}_{name}_sum", zeros, dist_reduce_fx="sum")

    def start(self, image_size: tuple[int, int], layout: Sequence[IndexSegment]) -> str | None:
        if self.extractor.classes is not None:
            return None
        return f"{self.extractor.label} has no classes; needs protocol.extractor={INCEPTION}"

    def add(self, side: str, features: Tensor, logits: Tensor | None, keys: Sequence[str]) -> None:
        assert logits is not None, "start() refuses extractors without classes"
        split = torch.tensor([split_of(k, splits=self.splits, seed=self.seed) for k in keys], device=self.device)
        log_p = logits.double().log_softmax(1)
        p = log_p.exp()
        for name, values in (("p", p), ("plogp", (p * log_p).sum(1)), ("count", torch.ones_like(p[:, 0]))):
            before = getattr(self, f"{side}_{name}_sum")
            setattr(self, f"{side}_{name}_sum", before.index_add(0, split, values))

    def measure(self) -> dict[str, Any]:
        reference, reconstruction = (
            scores(*(getattr(self, f"{side}_{name}_sum") for name in ("p", "plogp", "count"))) for side in SIDES
        )
        entry = reconstruction | {"originals": reference, "extractor": self.extractor.label}
        return {self.key("inception_score"): entry}

    def words(self) -> list[tuple[str, str]]:
        return [("Inception Score", f"one split, and {self.splits} shuffled by seed {self.seed}")]

    @classmethod
    def note(cls, found: Any) -> str:
        splits = f"{found['splits']} shuffled splits {found['splits_mean']:.3f} ± {found['splits_std']:.3f}"
        return f"originals {found['originals']['value']:.3f}; {splits}"


def scores(p_sum: Tensor, plogp_sum: Tensor, count: Tensor) -> dict[str, float]:
    """Of all images, and of the splits; sums by split: [S, classes], [S], [S]."""
    filled = count > 0
    parts = _score(p_sum[filled], plogp_sum[filled], count[filled])
    whole = _score(p_sum.sum(0, keepdim=True), plogp_sum.sum()[None], count.sum()[None])
    return {
        "value": float(whole),
        "splits_mean": float(parts.mean()),
        "splits_std": float(parts.std(correction=0)),
        "splits": int(filled.sum()),
    }


def _score(p_sum: Tensor, plogp_sum: Tensor, count: Tensor) -> Tensor:
    q = p_sum / count[:, None]
    return ((plogp_sum / count) - torch.xlogy(q, q).sum(1)).exp()
