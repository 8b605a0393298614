"""Masked tokens: what a decoder is given in their place."""

from dataclasses import replace

import torch
from torch import Tensor

from ..common.types import Stream, has_values


def with_mask_vector(x_BND: Tensor, mask_BN: Tensor | None, vector_D: Tensor) -> Tensor:
    """Masked tokens replaced by a learned vector, for decoders of a fixed length."""
    return x_BND if mask_BN is None else torch.where(mask_BN[..., None], x_BND, vector_D.to(x_BND.dtype))


def hidden_as_zero(stream: Stream) -> Stream:
    """The same vectors whether a prefix was cut in `quantize` or read from indices with -1 behind it."""
    if stream.mask_BN is None:
        return stream
    return replace(stream, x_BND=stream.x_BND.masked_fill(~stream.mask_BN[..., None], 0))


def seen_tokens(stream: Stream) -> tuple[Tensor, Tensor | None]:
    """Tokens and mask, for decoders of any length; outside training, positions that no sample uses are cut off."""
    x_BND, mask_BN = stream.x_BND, stream.mask_BN
    if mask_BN is None or x_BND.requires_grad or not has_values(x_BND):
        return x_BND, mask_BN
    used = mask_BN.any(dim=0).nonzero()
    longest = int(used[-1]) + 1 if len(used) else 1
    x_BND, mask_BN = x_BND[:, :longest], mask_BN[:, :longest]
    return x_BND, None if bool(mask_BN.all()) else mask_BN
