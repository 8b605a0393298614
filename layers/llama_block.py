"""LLaMA blocks with rotary positions of three axes, as in Instella-T2I's binary tokenizer (arXiv 2506.21022)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.types import Grid
from .rotary import Rotation, rotated


class RotaryBlock(nn.Module):
    """RMS norms, attention with normed and rotated queries and keys, SwiGLU of 4 x width; no biases."""

    def __init__(self, *, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = (nn.RMSNorm(width, eps=1e-6) for _ in range(2))
        self.q, self.k, self.v, self.project = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.q_norm, self.k_norm = (nn.RMSNorm(width // num_heads, eps=1e-6) for _ in range(2))
        self.gate, self.up = (nn.Linear(width, 4 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BND: Tensor, rotation: Rotation, visible_BN: Tensor | None = None) -> Tensor:
        """visible_BN: False at places that no token may look at."""
        mask = None if visible_BN is None else visible_BN[:, None, None, :]
        seen = self.norm1(x_BND)
        q, k, v = (layer(seen).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = (rotated(norm(x), rotation).to(v.dtype) for norm, x in ((self.q_norm, q), (self.k_norm, k)))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x_BND = x_BND + self.project(out.transpose(1, 2).flatten(2))
        seen = self.norm2(x_BND)
        return x_BND + self.down(F.silu(self.gate(seen)) * self.up(seen))


class ThreeAxes(nn.Module):
    """Channels of a head in three shares: the first turns with a latent's number, the others with row and column.

    Both stand at 0 on the other's axes. span: grid coordinates are stretched so that any image spans 0 to span - 1.
    """

    def __init__(self, *, axes: Sequence[int], theta: float = 10000.0) -> None:
        super().__init__()
        if len(axes) != 3 or any(axis % 2 for axis in axes):
            raise ValueError(
                f"axes={list(axes)}: three even numbers of channels, of the latents' number, row and column"
            )
        self.axes, self.theta = tuple(axes), theta

    def forward(self, latents: int, grid: Grid, *, span: int | None, device: torch.device) -> Rotation:
        rows, columns = (_coordinates(side, span, device) for side in grid)
        zeros = torch.zeros(latents, device=device)
        numbers = torch.arange(latents, dtype=torch.float32, device=device)
        on_grid = (torch.zeros(grid, device=device), rows[:, None].expand(grid), columns[None].expand(grid))
        places = [
            torch.cat([own, there.flatten()]) for own, there in zip((numbers, zeros, zeros), on_grid, strict=True)
        ]
        angles = torch.cat([self._angles(p, share) for p, share in zip(places, self.axes, strict=True)], dim=1)
        return angles.cos().float(), angles.sin().float()

    def _angles(self, place_N: Tensor, share: int) -> Tensor:
        powers = torch.arange(0, share, 2, dtype=torch.float64, device=place_N.device) / share
        return (place_N.double()[:, None] * self.theta**-powers).repeat_interleave(2, dim=1)


def _coordinates(side: int, span: int | None, device: torch.device) -> Tensor:
    places = torch.arange(side, dtype=torch.float32, device=device)
    return places if span is None else places / max(side - 1, 1) * (span - 1)


class HalveGrid(nn.Module):
    """A stride-2 convolution beside the mean of channel groups of 2x2 cells (DC-AE, arXiv 2410.10733, section 3.2)."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.conv(x_BCHW) + F.pixel_unshuffle(x_BCHW, 2).unflatten(1, (-1, 4)).mean(dim=2)


def check_axes(axes: Sequence[int], width: int, num_heads: int) -> None:
    if width % num_heads or sum(axes) != width // num_heads:
        raise ValueError(f"axes={list(axes)}: they must sum to the {width // num_heads} channels of a head")


def check_resizing(after: Sequence[int], depth: int, *, key: str) -> tuple[int, ...]:
    numbers = tuple(int(number) for number in after)
    if any(not 0 <= number < depth for number in numbers) or len(set(numbers)) < len(numbers):
        raise ValueError(f"{key}={list(after)}: numbers of blocks, each once, 0 to {depth - 1}")
    return numbers
