"""Running mean of the tokenizer's weights, on the training's own counter of updates."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...common.distributed import own_shard


class EMA:
    """Parameters are averaged; buffers are copied: a codebook of running means is a mean already, a counter is none.

    decay: share of the old mean kept at a step of the mean.
    every: updates between two steps.
    warmup: start with a small decay, (1 + n) / (10 + n), so that the first weights are soon forgotten.
    """

    def __init__(self, *, tokenizer: nn.Module, decay: float = 0.9999, every: int = 1, warmup: bool = False) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: at least 0 and below 1")
        if every < 1:
            raise ValueError(f"every={every}: 1 or more")
        self.decay, self.every, self.warmup = decay, every, warmup
        self.steps = 0
        self.parameters = {n: p.detach().clone() for n, p in tokenizer.named_parameters()}
        kept = tokenizer.state_dict().keys()  # what is not, belongs to the moment and into no export
        self.buffers = {n: b.detach().clone() for n, b in tokenizer.named_buffers() if n in kept}

    @torch.no_grad()
    def update(self, tokenizer: nn.Module, update: int) -> None:
        """Call after each update; `update` counts the finished ones."""
        if update % self.every:
            return
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps)) if self.warmup else self.decay
        self.steps += 1
        live = dict(tokenizer.named_parameters())
        trained = [n for n in self.parameters if live[n].requires_grad]
        if trained:
            means = [own_shard(self.parameters[n]) for n in trained]
            torch._foreach_lerp_(means, [own_shard(live[n]) for n in trained], 1 - decay)
        _copy(self.buffers, dict(tokenizer.named_buffers()))

    def start_from(self, tokenizer: nn.Module) -> None:
        live = self._live(tokenizer)
        self.load_state_dict({"steps": 0, "parameters": live, "buffers": live})

    @contextmanager
    def swapped_in(self, tokenizer: nn.Module) -> Iterator[None]:
        """Inside, the tokenizer has the mean's weights. Storages stay: compiled code and DDP hold on to them."""
        live = self._live(tokenizer)
        kept = {n: t.detach().clone() for n, t in live.items()}
        try:
            self.copy_to(tokenizer)
            yield
        finally:
            _copy(live, kept)

    def copy_to(self, tokenizer: nn.Module) -> None:
        _copy(self._live(tokenizer), self.parameters | self.buffers)

    def _live(self, tokenizer: nn.Module) -> dict[str, Tensor]:
        """The tokenizer's own tensors that have a mean."""
        own = dict(tokenizer.named_parameters()) | dict(tokenizer.named_buffers())
        return {n: own[n] for n in self.parameters | self.buffers}

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "parameters": self.parameters, "buffers": self.buffers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        _copy(self.parameters, state["parameters"])
        _copy(self.buffers, state["buffers"])


@torch.no_grad()
def _copy(targets: dict[str, Tensor], sources: dict[str, Tensor]) -> None:
    for name, target in targets.items():
        own_shard(target).copy_(own_shard(sources[name]))
