"""Attention in which a token sees its own and lower levels: prefix-causal registers, block-causal scales."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LevelMask(nn.Module):
    """levels: one per token; a query sees every key of no higher level than its own.

    `[0] * patches + [1, 2, 3, ...]` is the causal_last of FlexTok (arXiv 2502.13967): patches see patches, register
    i all patches and registers up to i. One number per scale is the block-causal mask of coarse-to-fine tokenizers.
    """

    def __init__(self, *, levels: Sequence[int]) -> None:
        super().__init__()
        table = torch.tensor(levels)
        self.levels = nn.Buffer(table, persistent=False)
        self.dense_NN = nn.Buffer(table[:, None] >= table, persistent=False)
        self.blocks_of_device: dict[torch.device, Any] = {}

    def blocks(self) -> Any:
        """The same mask for flex_attention, made once per device."""
        from torch.nn.attention.flex_attention import create_block_mask

        levels, length = self.levels, len(self.levels)
        if levels.device not in self.blocks_of_device:
            self.blocks_of_device[levels.device] = create_block_mask(
                lambda _b, _h, query, key: levels[query] >= levels[key], None, None, length, length, levels.device
            )
        return self.blocks_of_device[levels.device]


def prefix_causal(prefix: int, tokens: int) -> LevelMask:
    return LevelMask(levels=[0] * prefix + list(range(1, tokens + 1)))


def attend(
    q_BHND: Tensor, k_BHMD: Tensor, v_BHMD: Tensor, *, mask: LevelMask | None = None, scale: float | None = None
) -> Tensor:
    """Scaled dot product attention; with a mask on CUDA through flex_attention, which skips what nobody sees."""
    if mask is not None and q_BHND.is_cuda and (flex := compiled_flex_attention()) is not None:
        return flex(q_BHND, k_BHMD, v_BHMD, block_mask=mask.blocks(), scale=scale)
    seen = None if mask is None else mask.dense_NN
    return F.scaled_dot_product_attention(q_BHND, k_BHMD, v_BHMD, attn_mask=seen, scale=scale)


@cache
def compiled_flex_attention() -> Callable[..., Tensor] | None:
    """None where it cannot be compiled; uncompiled it would hold the whole table of scores."""
    from torch.nn.attention.flex_attention import flex_attention
    from torch.utils._triton import has_triton

    return torch.compile(flex_attention, dynamic=False) if has_triton() else None
