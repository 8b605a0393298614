"""Pre-norm transformer blocks whose names are timm's, so that weights made for timm's blocks load without renaming."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rotary import Rotation, rotated

ACTIVATIONS = ("gelu", "gelu_tanh", "quick_gelu")


class QuickGELU(nn.Module):
    """CLIP's x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def activation_of(name: str) -> nn.Module:
    if name not in ACTIVATIONS:
        raise ValueError(f"activation={name}: known: {', '.join(ACTIVATIONS)}")
    return QuickGELU() if name == "quick_gelu" else nn.GELU(approximate="tanh" if name == "gelu_tanh" else "none")


class Mlp(nn.Module):
    """Two linear layers."""

    def __init__(self, *, width: int, hidden: int, activation: str = "gelu") -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.act = activation_of(activation)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class GatedMlp(nn.Module):
    """One half of the hidden layer gates the other (GeGLU, arXiv 2002.05202), with a norm of its own (ViTamin)."""

    def __init__(self, *, width: int, hidden: int, activation: str = "gelu") -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.w0 = nn.Linear(width, hidden)
        self.act = activation_of(activation)
        self.w1 = nn.Linear(width, hidden)
        self.w2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.w2(self.act(self.w0(x)) * self.w1(x))


class SelfAttention(nn.Module):
    """All tokens to all tokens. `rotation`, where given: (cos, sin) of each token's angles, [N, width / heads].

    key_bias: off in BEiT's blocks; a key's bias moves all scores of a query alike, so it has no effect.
    """

    def __init__(self, *, width: int, num_heads: int, key_bias: bool = True) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"num_heads={num_heads}: width={width} cannot be split into that many heads")
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=key_bias)
        if not key_bias:
            self.q_bias = nn.Parameter(torch.zeros(width))
            self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x_BND: Tensor, rotation: Rotation | None = None) -> Tensor:
        bias = self.qkv.bias
        if bias is None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x_BND, self.qkv.weight, bias)
        q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if rotation is not None:
            q, k = rotated(q, rotation), rotated(k, rotation)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """x + attention, x + mlp. drop_path: chance that a sample skips a branch in training."""

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        mlp: nn.Module,
        eps: float = 1e-6,
        drop_path: float = 0.0,
        key_bias: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = SelfAttention(width=width, num_heads=num_heads, key_bias=key_bias)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = mlp
        self.drop_path = drop_path

    def forward(self, x_BND: Tensor, rotation: Rotation | None = None) -> Tensor:
        x_BND = x_BND + self._kept(self.attn(self.norm1(x_BND), rotation))
        return x_BND + self._kept(self.mlp(self.norm2(x_BND)))

    def _kept(self, branch_BND: Tensor) -> Tensor:
        if not (self.training and self.drop_path):
            return branch_BND
        kept_B11 = torch.rand(len(branch_BND), 1, 1, device=branch_BND.device) >= self.drop_path
        return branch_BND * kept_B11 / (1 - self.drop_path)


def mlp_blocks(
    depth: int, *, width: int, num_heads: int, hidden: int, activation: str, eps: float = 1e-6
) -> nn.ModuleList:
    """Blocks with plain MLPs."""

    def block() -> Block:
        mlp = Mlp(width=width, hidden=hidden, activation=activation)
        return Block(width=width, num_heads=num_heads, mlp=mlp, eps=eps)

    return nn.ModuleList(block() for _ in range(depth))


def init_linear(
    module: nn.Module,
    std: float | None = 0.02,
    *,
    kinds: tuple[type[nn.Linear | nn.Conv2d], ...] = (nn.Linear, nn.Conv2d),
) -> None:
    """Weights from a normal of deviation `std`, biases zero; null leaves them as PyTorch starts them.

    What TiTok and GigaTok do with 0.02 (published as truncated, but at a hundred deviations).
    """
    for part in module.modules():
        if std is not None and isinstance(part, kinds):
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def init_transformer(module: nn.Module) -> None:
    """As ViTs start: convolutions keep PyTorch's own start."""
    init_linear(module, kinds=(nn.Linear,))
