"""Base class of token dropout."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...common.errors import UserError
from ...common.types import Latents, Quantized, Stream
from ...layers.masking import hidden_as_zero


class TokenDropout(nn.Module, ABC):
    """Prefixes of the stream `main`: of random length in training, of a chosen length in use.

    A token that is dropped is not there for anybody: mask_BN is False at its place, its index is -1, and its vector is
    zero, so that nothing leaks into a decoder that has no attention to mask. compatibility.py: which parts go together.
    """

    cuts: ClassVar[bool] = False  # True where training shows a shorter sequence, not a masked one

    def check_lengths(self, num_tokens: int) -> None:
        """ValueError where a length it may draw is more than an image has tokens."""

    @abstractmethod
    def draw(self, batch: int, num_tokens: int, device: torch.device) -> Tensor:
        """Lengths [B] of one training batch, each from 1 to num_tokens."""

    def forward(self, codes: Latents) -> Latents:
        if not self.training:
            return codes
        stream = codes["main"]
        batch, num_tokens = stream.x_BND.shape[:2]
        seen_BN = _first(stream, self.draw(batch, num_tokens, stream.x_BND.device))
        return {"main": hidden_as_zero(replace(stream, mask_BN=seen_BN))}

    def keep(self, quantized: Quantized, num_tokens: int | Sequence[int]) -> Quantized:
        """The first tokens only: one number for all (the rest is cut off), or one per image (the rest is masked)."""
        stream, indices = quantized.codes["main"], quantized.indices.get("main")
        batch, total = stream.x_BND.shape[:2]
        lengths = [num_tokens] * batch if isinstance(num_tokens, int) else [int(n) for n in num_tokens]
        if len(lengths) != batch:
            raise UserError(f"num_tokens has {len(lengths)} lengths for {batch} images")
        if not all(1 <= n <= total for n in lengths):
            raise UserError(f"num_tokens={num_tokens}: from 1 to {total} for this tokenizer")
        seen_BN = _first(stream, torch.tensor(lengths, device=stream.x_BND.device))
        shown = hidden_as_zero(replace(stream, mask_BN=seen_BN))
        if indices is None:
            return replace(quantized, codes={"main": shown})
        longest = max(lengths)
        indices = indices.masked_fill(~seen_BN[..., None], -1)[:, :longest]
        return replace(quantized, codes={"main": shown}, indices={"main": indices})

    def padded(self, indices_BMK: Tensor, total: int) -> Tensor:
        """Shorter sequences filled up with -1, which says: no token here."""
        missing = total - indices_BMK.shape[1]
        if missing <= 0:
            return indices_BMK
        return nn.functional.pad(indices_BMK, (0, 0, 0, missing), value=-1)


def _first(stream: Stream, lengths_B: Tensor) -> Tensor:
    """[B, N], True for the first tokens of each image that are there."""
    places = torch.arange(stream.x_BND.shape[1], device=stream.x_BND.device)
    mask_BN = places < lengths_B[:, None]
    if stream.mask_BN is not None:
        mask_BN = mask_BN & stream.mask_BN
    return mask_BN
