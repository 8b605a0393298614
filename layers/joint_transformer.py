"""The transformer of TiTok (Yu et al., arXiv 2406.07550): full attention over patches and latent tokens together."""

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from .transformer import init_linear


class JointTransformer(nn.Module):
    """LayerNorm, pre-norm blocks with exact GELU and MLPs four times as wide; `norm_out` is applied by the owner.

    init_std: of linear layers at the start; null: as PyTorch starts them, its attention included (TA-TiTok's decoder).
    """

    def __init__(self, *, width: int, depth: int, num_heads: int, init_std: float | None = 0.02) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"num_heads={num_heads}: width={width} cannot be split into that many heads")
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(dim=width, num_heads=num_heads, qkv_bias=True, norm_layer=nn.LayerNorm) for _ in range(depth)
        )
        self.norm_out = nn.LayerNorm(width)
        init_linear(self, init_std)
        for part in self._attentions():  # one matrix for q, k and v, as PyTorch's own attention starts it
            nn.init.xavier_uniform_(part.qkv.weight)
            nn.init.zeros_(part.qkv.bias)
            nn.init.zeros_(part.proj.bias)

    def attentions(self) -> list[nn.Linear]:
        """The layers that make q, k and v."""
        return [part.qkv for part in self._attentions()]

    def _attentions(self) -> list[Attention]:
        return [part for part in self.modules() if isinstance(part, Attention)]

    def forward(self, x_BND: Tensor, visible_BN: Tensor | None = None) -> Tensor:
        """visible_BN: False at places that no token may look at."""
        mask = None if visible_BN is None else visible_BN[:, None, None, :]
        x_BND = self.norm_in(x_BND)
        for block in self.blocks:
            x_BND = block(x_BND, attn_mask=mask)
        return x_BND


def learned(*shape: int, std: float | None) -> nn.Parameter:
    """Tokens and positions; std: by default the last size ** -0.5, as published."""
    return nn.Parameter(torch.randn(*shape) * (shape[-1] ** -0.5 if std is None else std))
