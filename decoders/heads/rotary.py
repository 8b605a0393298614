"""Rotary transformer head that predicts a tower's features (ILLUME+'s DualViTok, arXiv 2504.01934)."""

from collections.abc import Mapping

from torch import Tensor

from ...common.types import Latents
from ...layers.rotary_adapter import RotaryBlocks
from .base import StreamHead


class RotaryHead(StreamHead):
    """Codes [B, N, dim] on a grid of any size to features [B, N, out_dim], with a layer norm last."""

    def __init__(
        self,
        *,
        dim: int | Mapping[str, int],
        out_dim: int = 3584,
        stream: str = "semantic",
        width: int = 1280,
        depth: int = 4,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        activation: str = "quick_gelu",
    ) -> None:
        super().__init__(dim=dim, out_dim=out_dim, stream=stream)
        self.widen = RotaryBlocks(
            dim_in=self.code_dim,
            dim_out=out_dim,
            width=width,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            activation=activation,
            out_norm=True,
        )

    def forward(self, codes: Latents) -> Tensor:
        stream = codes[self.stream]
        assert stream.grid is not None, "rotary positions need codes on a grid"
        return self.widen(stream.x_BND, stream.grid)
