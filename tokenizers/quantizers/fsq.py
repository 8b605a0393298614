"""Finite scalar quantization (arXiv 2309.15505): every channel rounded to a few levels.

Ours rather than vector-quantize-pytorch's FSQ: that sums indices in fp32 and int32 (wrong above 2^24 and 2^31 codes)
and cannot be built on the meta device, which `imtok plan` needs.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import MAX_CODE_DIM, StreamQuantized, TokenQuantizer
from .shared.sign import MAX_INDEX_BITS

MAX_LEVELS = 2**16


class FSQ(TokenQuantizer):
    """No losses and no codebook; gradients go straight through the rounding and really through the tanh.

    levels: values of each channel; the index is sum_i digit_i * prod(levels[:i]), first channel fastest.
    groups: so many sets of these channels, one index each.
    """

    loss_names: tuple[str, ...] = ()
    joined_batch_equal = True

    def __init__(self, *, dim: int, levels: Sequence[int] = (8, 5, 5, 5), groups: int = 1) -> None:
        levels = [int(level) for level in levels]
        if not levels or min(levels) < 2:
            raise ValueError(f"levels={levels}: every channel needs at least 2 levels")
        if max(levels) > MAX_LEVELS:
            raise ValueError(f"levels={levels}: at most {MAX_LEVELS} per channel, or fp32 cannot tell them apart")
        if math.prod(levels) > 2**MAX_INDEX_BITS:
            raise ValueError(f"levels={levels}: {math.prod(levels)} codes do not fit int64; split them with groups")
        if not 1 <= groups * len(levels) <= MAX_CODE_DIM:
            raise ValueError(f"groups={groups}: 1 or more, and at most {MAX_CODE_DIM} channels in all")
        super().__init__(dim=dim, code_dim=len(levels) * groups)
        self.groups = groups
        self.vocabulary = (math.prod(levels),) * groups
        places = [math.prod(levels[:i]) for i in range(len(levels))]
        self.levels = nn.Buffer(torch.tensor(levels), persistent=False)
        self.place = nn.Buffer(torch.tensor(places), persistent=False)

    def bounded(self, z: Tensor) -> Tensor:
        """z [..., len(levels)] squashed so that rounding gives -(L // 2) ... (L - 1) // 2 (their appendix A.1)."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        shift = (offset / half).atanh()  # zero goes to zero, also where the levels are even
        return (z + shift).tanh() * half - offset

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        bounded = self.bounded(z_BND.unflatten(-1, (self.groups, -1)))
        digits = bounded.detach().round()
        half_width = self.levels // 2
        indices = ((digits.long() + half_width) * self.place).sum(dim=-1)
        values = bounded + (digits - bounded).detach() if self.training else digits
        return StreamQuantized((values / half_width).flatten(-2), indices)

    def codes_to_indices(self, codes_BND: Tensor) -> Tensor:
        """[B, N, groups]: the index whose `lookup` is nearest to these codes."""
        half_width = self.levels // 2
        digits = (codes_BND.unflatten(-1, (self.groups, -1)) * half_width).round().long() + half_width
        return (digits * self.place).sum(dim=-1)

    def lookup(self, indices_BNK: Tensor) -> Tensor:
        half_width = self.levels // 2
        digits = (indices_BNK[..., None] // self.place) % self.levels - half_width
        return (digits.to(torch.float32) / half_width).flatten(-2)
