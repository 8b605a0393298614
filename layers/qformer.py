"""Queries that read a fixed memory: the Q-Former blocks of GigaTok (Xiong et al., arXiv 2504.08736), after DETR."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttention(nn.Module):
    """Multi-head attention of queries over keys and values, as wide on all sides."""

    def __init__(self, *, width: int, num_heads: int, qk_norm: bool = False) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"num_heads={num_heads}: width={width} cannot be split into that many heads")
        self.num_heads = num_heads
        self.q, self.k, self.v, self.project = (nn.Linear(width, width) for _ in range(4))
        self.q_norm, self.k_norm = (nn.LayerNorm(width // num_heads) if qk_norm else nn.Identity() for _ in range(2))

    def forward(
        self, queries_BND: Tensor, keys_BMD: Tensor, values_BMD: Tensor, visible_BM: Tensor | None = None
    ) -> Tensor:
        """visible_BM: False at keys that no query may look at."""
        given = ((self.q, queries_BND), (self.k, keys_BMD), (self.v, values_BMD))
        q, k, v = (layer(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for layer, x in given)
        mask = None if visible_BM is None else visible_BM[:, None, None, :]
        out = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, attn_mask=mask)
        return self.project(out.transpose(1, 2).flatten(2))


class QFormerBlock(nn.Module):
    """Queries attend to each other, then to the memory, then an MLP; positions are added to queries and keys only."""

    def __init__(self, *, width: int, num_heads: int, qk_norm: bool = False, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.among = CrossAttention(width=width, num_heads=num_heads, qk_norm=qk_norm)
        self.memory = CrossAttention(width=width, num_heads=num_heads, qk_norm=qk_norm)
        self.mlp = nn.Sequential(nn.Linear(width, mlp_ratio * width), nn.GELU(), nn.Linear(mlp_ratio * width, width))

    def forward(
        self,
        x_BND: Tensor,
        memory_BMD: Tensor,
        *,
        place_ND: Tensor,
        memory_place_MD: Tensor,
        visible_BM: Tensor | None = None,
    ) -> Tensor:
        """visible_BM: False where the memory holds nothing."""
        seen = self.norm1(x_BND)
        x_BND = x_BND + self.among(seen + place_ND, seen + place_ND, seen)
        x_BND = x_BND + self.memory(self.norm2(x_BND) + place_ND, memory_BMD + memory_place_MD, memory_BMD, visible_BM)
        return x_BND + self.mlp(self.norm3(x_BND))


def pyramid(x_BCHW: Tensor, tokens: int) -> Tensor:
    """[B, tokens, C]: means over the image, its halves, its quarters ...: 1, 1, 2, 4 ... tokens / 2 of them.

    The width is split first, then the height, alternately: GigaTok's first queries.
    """
    height, width = x_BCHW.shape[-2:]
    groups = [x_BCHW.mean(dim=(2, 3))[:, None]]
    for level in range(tokens.bit_length() - 1):
        across, down = 2 ** ((level + 1) // 2), 2 ** (level // 2)
        means = F.avg_pool2d(x_BCHW, (height // down, width // across))
        groups.append(means.flatten(2).transpose(1, 2))
    return torch.cat(groups, dim=1)


def check_pyramid(tokens: int, grid: tuple[int, int]) -> None:
    depth = tokens.bit_length() - 1
    across, down = 2 ** (depth // 2), 2 ** (max(depth - 1, 0) // 2)
    if tokens != 2**depth or grid[1] % across or grid[0] % down:
        raise ValueError(
            f"num_tokens={tokens}: a power of two whose halvings divide the grid {grid[0]}x{grid[1]} of the features"
        )
