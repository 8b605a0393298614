"""The residual block of MaskGIT's VQGAN, as converted by bytedance/1d-tokenizer."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from .resnet import group_norm


class MaskgitResBlock(nn.Module):
    """norm, SiLU, 3x3 convolution without bias, twice.

    Where the width changes, the 1x1 convolution works on the branch and the block's own input is dropped: a mistake
    of the published network that its weights were trained with. Nothing else should be built on this block.
    """

    def __init__(self, *, channels_in: int, channels_out: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        self.norm2 = group_norm(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.skip = None if channels_in == channels_out else nn.Conv2d(channels_out, channels_out, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x_BCHW)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + (x_BCHW if self.skip is None else self.skip(h))


def maskgit_blocks(count: int, channels_in: int, channels_out: int, dropout: float) -> list[MaskgitResBlock]:
    widths = [channels_in] + [channels_out] * count
    return [MaskgitResBlock(channels_in=a, channels_out=b, dropout=dropout) for a, b in pairwise(widths)]
