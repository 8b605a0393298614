"""SigLIP's attention pooling (arXiv 2303.15343; the Set Transformer's PMA): one learned query over all tokens."""

import torch
from torch import Tensor, nn

from .transformer import Mlp


class AttentionPool(nn.Module):
    """Tokens [B, N, D] to [B, D]."""

    def __init__(self, *, width: int, num_heads: int, mlp_width: int, activation: str = "gelu_tanh") -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, width).normal_(std=width**-0.5))
        self.attention = nn.MultiheadAttention(width, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width=width, hidden=mlp_width, activation=activation)

    def forward(self, x_BND: Tensor) -> Tensor:
        probe = self.probe.expand(len(x_BND), -1, -1)
        pooled_B1D = self.attention(probe, x_BND, x_BND, need_weights=False)[0]
        return (pooled_B1D + self.mlp(self.norm(pooled_B1D)))[:, 0]
