"""Attention that changes the width, as around UniTok's quantizer (arXiv 2502.20321, section 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .transformer import GatedMlp


class AttentionProjection(nn.Module):
    """y = linear(x) + attention(x), then y + gated mlp(y).

    Towards a smaller width the heads' outputs are averaged, towards a larger one they are concatenated. Keys have no
    bias. num_heads: by default the ratio of the widths. causal: each token sees only those before it (DualToken behind
    its quantizer, UniTok's first release).
    """

    def __init__(
        self, *, dim_in: int, dim_out: int, num_heads: int | None = None, mlp_ratio: float = 2.0, causal: bool = False
    ) -> None:
        super().__init__()
        wide, narrow = max(dim_in, dim_out), min(dim_in, dim_out)
        num_heads = num_heads or max(1, wide // narrow)
        if wide % num_heads:
            raise ValueError(f"attention projection {dim_in} to {dim_out}: {wide} does not divide by {num_heads} heads")
        self.shrinks = dim_in > dim_out
        self.dim_out, self.num_heads, self.causal = dim_out, num_heads, causal
        self.norm_attention = nn.LayerNorm(dim_in)
        self.qkv = nn.Linear(dim_in, 3 * wide, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(wide))
        self.v_bias = nn.Parameter(torch.zeros(wide))
        self.merge = nn.Linear(dim_out, dim_out)
        self.norm_linear = nn.LayerNorm(dim_in)
        self.linear = nn.Linear(dim_in, dim_out)
        self.norm_mlp = nn.LayerNorm(dim_out)
        self.mlp = GatedMlp(width=dim_out, hidden=int(dim_out * mlp_ratio), activation="gelu_tanh")

    def forward(self, x_BND: Tensor) -> Tensor:
        y_BND = self.linear(self.norm_linear(x_BND)) + self._attend(self.norm_attention(x_BND))
        return y_BND + self.mlp(self.norm_mlp(y_BND))

    def _attend(self, x_BND: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x_BND, self.qkv.weight, bias).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        heads_BHND = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        if not self.shrinks:
            return self.merge(heads_BHND.transpose(1, 2).flatten(2))
        mean_BND = heads_BHND.mean(dim=1)
        if mean_BND.shape[-1] != self.dim_out:
            mean_BND = F.adaptive_avg_pool1d(mean_BND, self.dim_out)
        return self.merge(mean_BND)
