"""What token dropout promises: random lengths in training, chosen ones in use."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ...configs.errors import UserError
from ..types import Latents, Quantized, Stream


class TokenDropout(nn.Module, ABC):
    """Prefixes of the stream `main`: training shows the decoder a random length, use a chosen one.

    A token that is dropped is not there for anybody: mask_BN is False at its place, its index is -1, and its vector is
    zero, so that nothing leaks into a decoder that has no attention to mask. `fits.py` says which parts go together.
    """

    cuts: ClassVar[bool] = False  # True where training shows a shorter sequence, not a masked one

    def check_lengths(self, num_tokens: int) -> None:
        """ValueError where a length it may draw is more than a picture has tokens."""

    @abstractmethod
    def draw(self, batch: int, num_tokens: int, device: torch.device) -> Tensor:
        """Lengths [B] of one training batch, each from 1 to num_tokens."""

    def forward(self, codes: Latents) -> Latents:
        if not self.training:
            return codes
        stream = codes["main"]
        batch, num_tokens = stream.x_BND.shape[:2]
        return {"main": _shortened(stream, self.draw(batch, num_tokens, stream.x_BND.device))}

    def keep(self, quantized: Quantized, num_tokens: int | Sequence[int]) -> Quantized:
        """The first tokens only: one number for all (the rest is cut off), or one a picture (the rest is masked)."""
        stream, indices = quantized.codes["main"], quantized.indices.get("main")
        batch, total = stream.x_BND.shape[:2]
        lengths = [num_tokens] * batch if isinstance(num_tokens, int) else [int(n) for n in num_tokens]
        if len(lengths) != batch:
            raise UserError(f"num_tokens has {len(lengths)} lengths for {batch} images")
        if not all(1 <= n <= total for n in lengths):
            raise UserError(f"num_tokens={num_tokens}: from 1 to {total} for this tokenizer")
        shown = _shortened(stream, torch.tensor(lengths, device=stream.x_BND.device))
        if indices is None:
            return replace(quantized, codes={"main": shown})
        longest = max(lengths)
        indices = indices.masked_fill(~shown.mask_BN[..., None], -1)[:, :longest]
        return replace(quantized, codes={"main": shown}, indices={"main": indices})

    def padded(self, indices_BMK: Tensor, total: int) -> Tensor:
        """Shorter sequences filled up with -1, which says: no token here."""
        missing = total - indices_BMK.shape[1]
        if missing <= 0:
            return indices_BMK
        return nn.functional.pad(indices_BMK, (0, 0, 0, missing), value=-1)


def _shortened(stream: Stream, lengths_B: Tensor) -> Stream:
    places = torch.arange(stream.x_BND.shape[1], device=stream.x_BND.device)
    mask_BN = places < lengths_B[:, None]
    if stream.mask_BN is not None:
        mask_BN = mask_BN & stream.mask_BN
    return hidden_as_zero(Stream(stream.x_BND, stream.grid, mask_BN))


def with_mask_vector(x_BND: Tensor, mask_BN: Tensor | None, vector_D: Tensor) -> Tensor:
    """What decoders of a fixed length do about tokens that are not there."""
    return x_BND if mask_BN is None else torch.where(mask_BN[..., None], x_BND, vector_D.to(x_BND.dtype))


def hidden_as_zero(stream: Stream) -> Stream:
    """The same vectors whether a prefix was cut in `quantize` or read from indices with -1 behind it."""
    if stream.mask_BN is None:
        return stream
    return replace(stream, x_BND=stream.x_BND.masked_fill(~stream.mask_BN[..., None], 0))


def seen_tokens(stream: Stream) -> tuple[Tensor, Tensor | None]:
    """Tokens and mask, for decoders of any length; outside training, places that no picture uses are cut off."""
    x_BND, mask_BN = stream.x_BND, stream.mask_BN
    if mask_BN is None or x_BND.requires_grad or isinstance(x_BND, FakeTensor):
        return x_BND, mask_BN
    used = mask_BN.any(dim=0).nonzero()
    longest = int(used[-1]) + 1 if len(used) else 1
    x_BND, mask_BN = x_BND[:, :longest], mask_BN[:, :longest]
    return x_BND, None if bool(mask_BN.all()) else mask_BN
