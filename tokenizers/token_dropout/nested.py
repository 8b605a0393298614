"""Nested dropout (Rippel et al., arXiv 1402.0915): every training sample keeps a random number of its first tokens."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ...common.devices import moved
from .base import TokenDropout


class NestedDropout(TokenDropout):
    """A length for each sample; the decoder puts its mask vector in place of what is dropped.

    lengths: `uniform` 1 to all (FlexTok, arXiv 2502.13967); `power_of_two` of 1, 2, 4 ... all, each as likely;
        `uniform_power_of_two` a uniform draw rounded up to the next power of two, so that half the samples keep all;
        or a list of lengths, each as likely, unless `weights` (one per length) says otherwise.
    """

    def __init__(
        self,
        *,
        lengths: Literal["uniform", "power_of_two", "uniform_power_of_two"] | Sequence[int] = "uniform",
        weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        listed = () if isinstance(lengths, str) else tuple(lengths)
        if not isinstance(lengths, str) and (not listed or min(listed) < 1):
            raise ValueError(f"lengths={list(listed)}: a list of lengths, each 1 or more")
        if weights is not None and (
            not listed or len(weights) != len(listed) or min(weights) < 0 or not any(w > 0 for w in weights)
        ):
            raise ValueError(f"weights={list(weights)}: needs a list `lengths`, one weight of 0 or more for each of it")
        self.named, self.listed = lengths if isinstance(lengths, str) else None, listed
        self.weights = None if weights is None else tuple(float(w) for w in weights)

    def check_lengths(self, num_tokens: int) -> None:
        if max(self.listed, default=0) > num_tokens:
            raise ValueError(
                f"tokenizer.token_dropout.lengths={list(self.listed)}: there are {num_tokens} tokens; give at most "
                "that many"
            )

    def draw(self, batch: int, num_tokens: int, device: torch.device) -> Tensor:
        if self.named in ("uniform", "uniform_power_of_two"):
            drawn = torch.randint(1, num_tokens + 1, (batch,), device=device)
            return drawn if self.named == "uniform" else next_power_of_two(drawn).clamp(max=num_tokens)
        if self.named == "power_of_two":
            choices = [2**i for i in range(num_tokens.bit_length())]
            choices = choices if choices[-1] == num_tokens else [*choices, num_tokens]
        else:
            choices = list(self.listed)
            self.check_lengths(num_tokens)
        weights = moved(torch.tensor(self.weights or [1.0] * len(choices)), device)
        return moved(torch.tensor(choices), device)[torch.multinomial(weights, batch, replacement=True)]


def next_power_of_two(lengths: Tensor) -> Tensor:
    """The smallest power of two that is no less."""
    powers = 2 ** torch.arange(62, device=lengths.device)
    return powers[torch.searchsorted(powers, lengths)]
