"""FlexTok's transformer blocks (Bachmann et al., arXiv 2502.13967): plain, and conditioned by adaLN-zero."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .level_attention import LevelMask, attend


def normed(x: Tensor) -> Tensor:
    """Layer norm without parameters, in fp32 whatever the autocast."""
    return F.layer_norm(x.float(), x.shape[-1:]).type_as(x)


def modulated(x_BND: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
    return x_BND * (1 + scale_BD[:, None]) + shift_BD[:, None]


class Attention(nn.Module):
    """Queries and keys of every head are normed; no biases."""

    def __init__(self, *, width: int, head_dim: int = 64) -> None:
        super().__init__()
        if width % head_dim:
            raise ValueError(f"head_dim={head_dim}: width={width} is no multiple of it")
        self.head_dim = head_dim
        self.q, self.k, self.v, self.project = (xavier(width, width, bias=False) for _ in range(4))

    def forward(self, x_BND: Tensor, mask: LevelMask | None = None) -> Tensor:
        q, k, v = (layer(x_BND).unflatten(2, (-1, self.head_dim)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        # 8 / head_dim is 1 / sqrt(head_dim) at the published 64: the scale that carries over between widths (muP).
        out = attend(normed(q), normed(k), v, mask=mask, scale=8 / self.head_dim)
        return self.project(out.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """Shazeer, arXiv 2002.05202: two thirds of the hidden width, for as many parameters as a plain MLP."""

    def __init__(self, *, width: int, ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(2 * int(ratio * width) / 3)
        self.gate, self.up = (xavier(width, hidden, bias=False) for _ in range(2))
        self.down = xavier(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class FlexBlock(nn.Module):
    """Pre-norm attention and SwiGLU."""

    def __init__(self, *, width: int, head_dim: int = 64) -> None:
        super().__init__()
        self.attention = Attention(width=width, head_dim=head_dim)
        self.mlp = SwiGLU(width=width)

    def forward(self, x_BND: Tensor, mask: LevelMask | None = None) -> Tensor:
        x_BND = x_BND + self.attention(normed(x_BND), mask)
        return x_BND + self.mlp(normed(x_BND))


class ConditionedFlexBlock(nn.Module):
    """Several token sets attend to each other; the condition scales, shifts and gates each set in its own way.

    All gates are `gate_start` at first: zero is adaLN-zero (Peebles and Xie, arXiv 2212.09748), the block begins as the
    identity.
    """

    def __init__(self, *, width: int, head_dim: int = 64, sets: int = 2, gate_start: float = 0.0) -> None:
        super().__init__()
        self.attention = Attention(width=width, head_dim=head_dim)
        self.mlp = SwiGLU(width=width)
        self.sets = sets
        self.modulation = zeroed(width, 6 * sets * width)
        with torch.no_grad():  # of every set the first two of six
            self.modulation.bias.view(sets, 6, width)[:, :2] = gate_start

    def forward(self, tokens: tuple[Tensor, ...], condition_BD: Tensor) -> tuple[Tensor, ...]:
        lengths = [x.shape[1] for x in tokens]
        steering = self.modulation(F.silu(condition_BD)).chunk(self.sets, dim=-1)
        # Both gates first: the published order, other than DiT's.
        attention_gate, mlp_gate, *rest = zip(*(s.chunk(6, dim=-1) for s in steering), strict=True)
        attention_shift, attention_scale, mlp_shift, mlp_scale = rest

        def gated(tokens: tuple[Tensor, ...], gates: tuple[Tensor, ...], change_BND: Tensor) -> tuple[Tensor, ...]:
            changes = change_BND.split(lengths, dim=1)
            return tuple(x + g[:, None] * change for x, g, change in zip(tokens, gates, changes, strict=True))

        seen = torch.cat(
            [modulated(normed(x), *s) for x, *s in zip(tokens, attention_shift, attention_scale, strict=True)], dim=1
        )
        tokens = gated(tokens, attention_gate, self.attention(seen))
        seen = torch.cat([modulated(normed(x), *s) for x, *s in zip(tokens, mlp_shift, mlp_scale, strict=True)], dim=1)
        return gated(tokens, mlp_gate, self.mlp(seen))


@torch.no_grad()
def match_like_with_like(blocks: nn.Module) -> None:
    """Queries and keys are one matrix at first: a token looks at those that are like it, also in place."""
    for part in blocks.modules():
        if isinstance(part, Attention):
            part.k.weight.copy_(part.q.weight)


def xavier(width_in: int, width_out: int, *, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(width_in, width_out, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def zeroed(width_in: int, width_out: int) -> nn.Linear:
    layer = nn.Linear(width_in, width_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
