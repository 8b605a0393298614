"""Pooled head: one vector per image from the mean of its codes, which UniTok and MedITok align with text."""

from collections.abc import Mapping

from torch import Tensor, nn

from ...common.types import Latents
from .base import StreamHead


class PooledHead(StreamHead):
    """Mean over the tokens of a stream, layer norm, linear. It reads codes, so its output went through the quantizer.

    out_dim: of the embedding space, the text tower's. stream: whose codes; null is the only one.
    """

    any_length = True

    def __init__(self, *, dim: int | Mapping[str, int], out_dim: int = 768, stream: str | None = None) -> None:
        super().__init__(dim=dim, out_dim=out_dim, stream=stream)
        self.norm = nn.LayerNorm(self.code_dim, eps=1e-6)
        self.project = nn.Linear(self.code_dim, out_dim)

    def forward(self, codes: Latents) -> Tensor:
        return self.project(self.norm(codes[self.stream].mean()))
