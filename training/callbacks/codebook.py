"""How much of the codebook the last tokens used: usage, perplexity, dead codes, and over how many tokens."""

from collections import deque
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from ..module import TokenizerTraining


class Codebook(Callback):
    """tokens: how many of this process's last tokens are looked at; usage means little where they are fewer than codes.

    Indices stay on the device until a line is logged, and sorting them serves any vocabulary: a histogram of 2^36
    codes would not fit, the set of those that were used does.
    """

    def __init__(self, *, tokens: int = 262_144) -> None:
        if tokens < 1:
            raise ValueError(f"tokens={tokens}: 1 or more")
        self.tokens = tokens
        self.kept: deque[dict[str, Tensor]] = deque()
        self.held = 0

    def on_train_batch_end(
        self, trainer: Trainer, training: TokenizerTraining, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not outputs["indices"]:
            return
        self.add(outputs["indices"])
        if training.reports_now:
            layout = training.tokenizer.index_layout(training.tokenizer.image_size)
            training.report(self.values({s.stream: s.vocabulary for s in layout}))

    def state_dict(self) -> dict[str, Any]:
        """Part of the checkpoint, so that a resumed run reports the same numbers."""
        streams = self.kept[0] if self.kept else {}
        return {"kept": [{stream: indices[stream].cpu() for stream in streams} for indices in self.kept]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.kept, self.held = deque(), 0
        for indices in state_dict["kept"]:
            self.add(indices)

    def add(self, indices: dict[str, Tensor]) -> None:
        self.kept.append(indices)
        self.held += _positions(indices)
        while len(self.kept) > 1 and self.held - _positions(self.kept[0]) >= self.tokens:
            self.held -= _positions(self.kept.popleft())

    def values(self, vocabularies: dict[str, tuple[int, ...]]) -> dict[str, float]:
        """Means over the codebooks; `dead_codes` is their sum."""
        usage, perplexity, dead = [], [], 0
        for stream, vocabulary in vocabularies.items():
            device = self.kept[-1][stream].device  # a resumed window comes from the CPU
            ids = torch.cat([indices[stream].to(device).flatten(0, 1) for indices in self.kept])
            for k, entries in enumerate(vocabulary):
                one = ids[:, k]
                counts = one[one >= 0].unique(return_counts=True)[1].double()
                p = counts / counts.sum()
                usage.append(len(counts) / entries)
                perplexity.append(float(torch.exp(-(p * p.log()).sum())))
                dead += entries - len(counts)
        return {
            "train/usage": sum(usage) / len(usage),
            "train/usage_tokens": self.held,
            "train/perplexity": sum(perplexity) / len(perplexity),
            "train/dead_codes": dead,
        }


def _positions(indices: dict[str, Tensor]) -> int:
    return max(ids.shape[0] * ids.shape[1] for ids in indices.values())
