"""Multi-codebook quantization (UniTok, arXiv 2502.20321): channels in chunks, each with its own small codebook."""

from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ...common.modules import ModuleList
from ...layers.attention_projection import AttentionProjection
from ...layers.transformer import init_linear
from .base import StreamQuantized, TokenQuantizer
from .shared.codebook_start import CodebookStart
from .shared.limits import check_positive
from .vq import VQ


class MultiCodebook(TokenQuantizer):
    """K = codebooks indices per token; losses are means over codebooks.

    codebook_size, code_dim: entries of each codebook, and width of all chunks together (UniTok: 8 x 4096 x 8 of 64).
    projection: between `dim` and `code_dim`, where they differ: linear, attention (UniTok's; the decoder then reads
        `dim`-wide codes that know of each other), or causal_attention (its first release).
    projection_heads: of the attention; the ratio of the widths by default.
    projection_std: the projections' weights start from a normal of this deviation, their biases at 0 (UniTok: 0.02);
        null: as PyTorch starts them.
    init: where the codes start, see codebook_start.py; null: uniform, of unit length where unit_length is set.
    """

    joined_batch_equal = True

    def __init__(
        self,
        *,
        dim: int,
        codebooks: int = 8,
        codebook_size: int = 4096,
        code_dim: int | None = None,
        unit_length: bool = True,
        rotation_trick: bool = False,
        revive_below: float = 0.0,
        usage_decay: float = 0.9,
        init: CodebookStart | None = None,
        entropy_temperature: float | None = None,
        projection: Literal["linear", "attention", "causal_attention"] = "linear",
        projection_heads: int | None = None,
        projection_std: float | None = None,
    ) -> None:
        super().__init__(dim=dim, code_dim=code_dim)
        if projection_heads is not None and projection_heads < 1:
            raise ValueError(f"projection_heads={projection_heads}: at least 1, or null for the ratio of the widths")
        if projection != "linear" and self.code_dim != dim:
            causal = projection == "causal_attention"
            attention = partial(AttentionProjection, num_heads=projection_heads, causal=causal)
            self.project_in = attention(dim_in=dim, dim_out=self.code_dim)
            self.project_out = attention(dim_in=self.code_dim, dim_out=dim)
            self.prefix_decodes = causal
        check_positive(projection_std=projection_std)
        for part in (self.project_in, self.project_out):
            init_linear(part, projection_std)
        if codebooks < 1 or self.code_dim % codebooks:
            raise ValueError(f"codebooks={codebooks}: the width of the codes, {self.code_dim}, does not divide by it")
        self.vocabulary = (codebook_size,) * codebooks
        self.books = ModuleList(
            VQ(
                dim=self.code_dim // codebooks,
                codebook_size=codebook_size,
                unit_length=unit_length,
                rotation_trick=rotation_trick,
                revive_below=revive_below,
                usage_decay=usage_decay,
                init=init,
                entropy_temperature=entropy_temperature,
            )
            for _ in range(codebooks)
        )
        self.loss_names = self.books[0].loss_names

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        pieces = [book.quantize(z) for book, z in zip(self.books, z_BND.chunk(len(self.books), dim=-1), strict=True)]
        return StreamQuantized(
            torch.cat([p.codes_BND for p in pieces], dim=-1),
            torch.cat([p.indices_BNK for p in pieces], dim=-1),
            {name: torch.stack([p.losses[name] for p in pieces]).mean() for name in pieces[0].losses},
        )

    def lookup(self, indices_BNK: Tensor) -> Tensor:
        pieces = zip(self.books, indices_BNK.split(1, dim=-1), strict=True)
        return torch.cat([book.lookup(index) for book, index in pieces], dim=-1)
