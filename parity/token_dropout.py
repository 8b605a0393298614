"""Golden vectors of token dropout (shared/parity/functions): what our code makes of the stored lengths."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..common.types import Quantized, Stream
from ..layers.masking import with_mask_vector
from ..tokenizers.token_dropout.nested import NestedDropout, next_power_of_two
from .check import Check, Tensors


def check_nested_dropout(config: Mapping[str, Any], io: Tensors, weights: Tensors) -> dict[str, Tensor]:
    """Masked with the mask vector, rounded up to powers of two, and cut off behind a length."""
    ours: dict[str, Tensor] = {}
    if "masked" in io:
        kept = shortened(io["x"], io["keep_k"].tolist())
        ours["masked"] = with_mask_vector(kept.x_BND, kept.mask_BN, io["mask_token"])
    if "pow2_table" in io:
        ours["pow2_table"] = next_power_of_two(torch.arange(1, len(io["pow2_table"]) + 1))
    for name in io:
        if m := re.match(r"taildrop_keep(\d+)$", name):
            kept = shortened(io["tail_z"].flatten(2).transpose(1, 2), int(m[1]))
            seen_BNC = kept.x_BND[kept.mask_BN].unflatten(0, (len(kept.x_BND), -1))
            ours[name] = seen_BNC.transpose(1, 2)[:, :, None]
    return ours


def shortened(x_BND: Tensor, lengths: int | list[int]) -> Stream:
    """The codes that `tokenize(images, num_tokens=lengths)` keeps."""
    return NestedDropout().eval().keep(Quantized({"main": Stream(x_BND)}, {}), lengths).codes["main"]


FUNCTIONS: dict[str, Check] = {"nested_dropout": check_nested_dropout}
