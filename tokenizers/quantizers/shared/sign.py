"""What the quantizers of signs share (LFQ, grouped LFQ, BSQ): codes of +-scale, indices made of bits."""

from typing import Literal

import torch
from torch import Tensor, nn

from ..base import MAX_CODE_DIM, TokenQuantizer

BitOrder = Literal["lsb_first", "msb_first"]
MAX_INDEX_BITS = 62  # of one int64; more bits take several indices per token


class SignQuantizer(TokenQuantizer):
    """`bits` signs a token, written as `groups` indices; channels of group g are g * bits / groups and on.

    order: which channel of a group is worth 1 in its index: the first (SEED-Voken, WeTok, XQ-GAN) or the last (BSQ,
        vector-quantize-pytorch). Codes are the same, stored tokens are not.
    scale: size of a code's entries.
    """

    def __init__(self, *, dim: int, bits: int, groups: int, scale: float, order: BitOrder) -> None:
        if not 1 <= bits <= MAX_CODE_DIM:
            raise ValueError(f"bits={bits}: of a token, from 1 to {MAX_CODE_DIM}")
        if groups < 1 or bits % groups:
            raise ValueError(f"groups={groups}: {bits} bits cannot be split into that many equal groups")
        if bits // groups > MAX_INDEX_BITS:
            raise ValueError(
                f"groups={groups}: an index of {bits // groups} bits does not fit int64; bits={bits} needs groups of "
                f"at most {MAX_INDEX_BITS} bits, such as groups={_groups_that_fit(bits)}"
            )
        super().__init__(dim=dim, code_dim=bits)
        self.bits_per_token = bits
        self.groups, self.scale, self.order = groups, scale, order
        self.vocabulary = (2 ** (bits // groups),) * groups
        place = torch.arange(bits // groups)
        place = place if order == "lsb_first" else place.flip(0)
        self.place = nn.Buffer(place, persistent=False)  # a checkpoint of signs has nothing to store

    def signs(self, z: Tensor) -> Tensor:
        """+1 where z > 0, else -1: zero is -1 in every published code, where torch.sign says 0."""
        return (z > 0).to(z.dtype) * 2 - 1

    def to_indices(self, z_BND: Tensor) -> Tensor:
        """[B, N, groups]"""
        bits = (z_BND > 0).unflatten(-1, (self.groups, -1)).long()
        return (bits << self.place).sum(dim=-1)

    def lookup(self, indices_BNK: Tensor) -> Tensor:
        bits = (indices_BNK[..., None] >> self.place) & 1
        return (bits.flatten(-2).to(torch.float32) * 2 - 1) * self.scale


def _groups_that_fit(bits: int) -> int:
    return next(g for g in range(1, bits + 1) if bits % g == 0 and bits // g <= MAX_INDEX_BITS)
