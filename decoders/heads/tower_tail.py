"""The remaining blocks of a tower, applied to quantized features (DualToken, arXiv 2503.14324)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ...common.timm_weights import start_from
from ...common.types import Latents
from ...layers.attention_pool import AttentionPool
from ...layers.attention_projection import AttentionProjection
from ...layers.transformer import Block, Mlp, init_transformer
from .base import StreamHead


class TowerTailHead(StreamHead):
    """Codes to the pooled vector [B, width] of SigLIP: projection to the tower's width, last blocks, norm, pooling.

    The projection's output, `expand`, stands in for the features of the layer that was quantized; a loss reads it
    by the tap `heads.NAME.expand`.
    depth: blocks that follow the quantized layer. causal: of the projection. projection_heads: ratio of the widths.
    pretrained, first_block: a timm SigLIP to take the tail from, and the number of our first block in it.
    """

    def __init__(
        self,
        *,
        dim: int | Mapping[str, int],
        stream: str = "semantic",
        width: int = 1152,
        depth: int = 1,
        num_heads: int = 16,
        mlp_width: int = 4304,
        activation: str = "gelu_tanh",
        causal: bool = True,
        projection_heads: int | None = None,
        pretrained: str | None = None,
        first_block: int = 26,
    ) -> None:
        super().__init__(dim=dim, out_dim=width, stream=stream)
        self.blocks = nn.ModuleList(
            Block(width=width, num_heads=num_heads, mlp=Mlp(width=width, hidden=mlp_width, activation=activation))
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.pool = AttentionPool(width=width, num_heads=num_heads, mlp_width=mlp_width, activation=activation)
        init_transformer(self)
        self.expand = AttentionProjection(
            dim_in=self.code_dim, dim_out=width, num_heads=projection_heads, causal=causal
        )
        tail = {f"{name}.": getattr(self, name) for name in ("blocks", "norm", "pool")}
        start_from(tail, pretrained, rename=lambda state: from_timm(state, first_block))

    def features(self, codes: Latents) -> Tensor:
        """[B, N, width], where the tower goes on."""
        return self.expand(codes[self.stream].x_BND)

    def last_hidden(self, features_BND: Tensor) -> Tensor:
        for block in self.blocks:
            features_BND = block(features_BND)
        return features_BND

    def forward(self, codes: Latents) -> Tensor:
        return self.pool(self.norm(self.last_hidden(self.features(codes))))


def from_timm(state: Mapping[str, Tensor], first_block: int) -> dict[str, Tensor]:
    """timm's SigLIP in our names: blocks counted from ours, its pooling's q and kv as one."""
    ours = {}
    for name, tensor in state.items():
        if name.startswith("blocks."):
            number, _, rest = name.removeprefix("blocks.").partition(".")
            ours[f"blocks.{int(number) - first_block}.{rest}"] = tensor
        elif name.startswith(("attn_pool.norm.", "attn_pool.mlp.")):
            ours[name.replace("attn_pool.", "pool.")] = tensor
        elif name.startswith("norm."):
            ours[name] = tensor
    if "attn_pool.latent" in state:
        ours["pool.probe"] = state["attn_pool.latent"]
        for kind in ("weight", "bias"):
            ours[f"pool.attention.in_proj_{kind}"] = torch.cat(
                [state[f"attn_pool.q.{kind}"], state[f"attn_pool.kv.{kind}"]]
            )
            ours[f"pool.attention.out_proj.{kind}"] = state[f"attn_pool.proj.{kind}"]
    return ours
