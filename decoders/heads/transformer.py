"""Transformer head on one stream's codes, which mixes tokens."""

from collections.abc import Mapping, Sequence

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ...common.types import Latents
from .base import StreamHead


class TransformerHead(StreamHead):
    """Linear in, `depth` pre-norm blocks `width` wide over the stream's tokens, norm, linear out to `out_dim`.

    num_tokens: for learned positions, where the tokens' number is fixed; null adds none.
    """

    def __init__(
        self,
        *,
        dim: int | Mapping[str, int],
        out_dim: int = 768,
        stream: str | None = None,
        width: int = 768,
        depth: int = 3,
        num_heads: int = 12,
        num_tokens: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__(dim=dim, out_dim=out_dim, stream=stream)
        if width % num_heads:
            raise ValueError(f"num_heads={num_heads}: width={width} cannot be split into that many heads")
        self.project_in = nn.Linear(self.code_dim, width)
        count = num_tokens if num_tokens is None or isinstance(num_tokens, int) else num_tokens[0] * num_tokens[1]
        self.positions = nn.Parameter(torch.randn(1, count, width) * 0.02) if count else None
        self.blocks = nn.Sequential(*(Block(dim=width, num_heads=num_heads, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.project_out = nn.Linear(width, out_dim)

    def forward(self, codes: Latents) -> Tensor:
        x = self.project_in(codes[self.stream].x_BND)
        if self.positions is not None:
            x = x + self.positions
        return self.project_out(self.norm(self.blocks(x)))
