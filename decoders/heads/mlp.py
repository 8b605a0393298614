"""MLP head on one stream's codes, per token."""

from collections.abc import Mapping

from torch import Tensor, nn

from ...common.types import Latents
from .base import StreamHead


class MLPHead(StreamHead):
    """depth: linear layers with GELU between them, `hidden` wide; 1 is a linear head."""

    def __init__(
        self,
        *,
        dim: int | Mapping[str, int],
        out_dim: int = 768,
        stream: str | None = None,
        depth: int = 2,
        hidden: int = 512,
    ) -> None:
        super().__init__(dim=dim, out_dim=out_dim, stream=stream)
        if depth < 1:
            raise ValueError(f"depth={depth}: at least 1")
        sizes = [self.code_dim, *[hidden] * (depth - 1), out_dim]
        layers: list[nn.Module] = []
        for number in range(depth):
            layers += [nn.GELU()] if number else []
            layers.append(nn.Linear(sizes[number], sizes[number + 1]))
        self.layers = nn.Sequential(*layers)

    def forward(self, codes: Latents) -> Tensor:
        return self.layers(codes[self.stream].x_BND)
