"""The transformer of TiTok (Yu et al., arXiv 2406.07550): patches and latent tokens in one sequence, all seeing all."""

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn


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
        for block in self.blocks:  # one matrix for q, k and v, as PyTorch's own attention starts it
            nn.init.xavier_uniform_(block.attn.qkv.weight)
            nn.init.zeros_(block.attn.qkv.bias)
            nn.init.zeros_(block.attn.proj.bias)

    def attentions(self) -> list[nn.Linear]:
        """The layers that make q, k and v."""
        return [block.attn.qkv for block in self.blocks]

    def forward(self, x_BND: Tensor, visible_BN: Tensor | None = None) -> Tensor:
        """visible_BN: False at places that no token may look at."""
        mask = None if visible_BN is None else visible_BN[:, None, None, :]
        x_BND = self.norm_in(x_BND)
        for block in self.blocks:
            x_BND = block(x_BND, attn_mask=mask)
        return x_BND


def init_linear(module: nn.Module, std: float | None) -> None:
    """What TiTok does to every linear layer and convolution, with 0.02; null leaves them as PyTorch starts them."""
    if std is None:
        return
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(part.weight, std=std)  # published: cut off at 2, a hundred deviations away
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def learned(*shape: int, std: float | None) -> nn.Parameter:
    """Tokens and positions; std: by default the last size ** -0.5, as published."""
    return nn.Parameter(torch.randn(*shape) * (shape[-1] ** -0.5 if std is None else std))
