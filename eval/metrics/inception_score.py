"""Inception Score (Salimans et al. 2016), streamed: exp of the mean KL between p(class|image) and its mean.

Class-sorted files scored in chunks of file order read 6 where shuffled ones read 14, so an image's split is decided by
a hash of its key and the seed: shuffled, the same for every batch size, file order and number of processes.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def split_of(key: str, *, splits: int, seed: int) -> int:
    digest = hashlib.blake2b(f"{seed}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % splits


class InceptionScore:
    def __init__(self, *, splits: int = 10, seed: int = 0) -> None:
        self.splits, self.seed = splits, seed
        self.p_sum: Tensor | None = None  # [splits, classes]
        self.plogp_sum: Tensor | None = None  # [splits]
        self.count: Tensor | None = None

    def update(self, logits: Tensor, keys: Sequence[str]) -> None:
        logits = (logits.cpu() if logits.device.type == "mps" else logits).double()
        log_p = logits.log_softmax(1)
        p = log_p.exp()
        split = torch.tensor([split_of(k, splits=self.splits, seed=self.seed) for k in keys], device=p.device)
        if self.p_sum is None:
            self.p_sum = p.new_zeros(self.splits, p.shape[1])
            self.plogp_sum, self.count = p.new_zeros(self.splits), p.new_zeros(self.splits)
        self.p_sum.index_add_(0, split, p)
        self.plogp_sum.index_add_(0, split, (p * log_p).sum(1))
        self.count.index_add_(0, split, torch.ones_like(split, dtype=p.dtype))

    def merge(self, other: "InceptionScore") -> None:
        if self.p_sum is None:
            self.p_sum, self.plogp_sum, self.count = other.p_sum, other.plogp_sum, other.count
        elif other.p_sum is not None:
            self.p_sum, self.plogp_sum = self.p_sum + other.p_sum, self.plogp_sum + other.plogp_sum
            self.count = self.count + other.count

    def to_cpu(self) -> "InceptionScore":
        if self.p_sum is not None:
            self.p_sum, self.plogp_sum, self.count = self.p_sum.cpu(), self.plogp_sum.cpu(), self.count.cpu()
        return self

    def result(self) -> dict[str, float]:
        filled = self.count > 0
        parts = _score(self.p_sum[filled], self.plogp_sum[filled], self.count[filled])
        whole = _score(self.p_sum.sum(0, keepdim=True), self.plogp_sum.sum()[None], self.count.sum()[None])
        return {
            "value": float(whole),
            "splits_mean": float(parts.mean()),
            "splits_std": float(parts.std(correction=0)),
            "splits": int(filled.sum()),
        }


def _score(p_sum: Tensor, plogp_sum: Tensor, count: Tensor) -> Tensor:
    q = p_sum / count[:, None]
    return ((plogp_sum / count) - torch.xlogy(q, q).sum(1)).exp()
