"""Rotary transformer adapter between tower and code widths (ILLUME+, arXiv 2504.01934)."""

from torch import Tensor, nn

from ..common.types import Grid
from .rotary import grid_rotation
from .transformer import init_transformer, mlp_blocks


class RotaryBlocks(nn.Module):
    """[B, N, dim_in] on a grid to [B, N, dim_out]. out_norm: a layer norm behind the last linear layer."""

    def __init__(
        self,
        *,
        dim_in: int,
        dim_out: int,
        width: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        activation: str = "quick_gelu",
        project_in: bool = True,
        out_norm: bool = False,
    ) -> None:
        super().__init__()
        if not project_in and dim_in != width:
            raise ValueError(f"project_in=False: tokens of width {dim_in} do not fit blocks of width {width}")
        self.head_dim = width // num_heads
        self.proj_in: nn.Module = nn.Linear(dim_in, width) if project_in else nn.Identity()
        hidden = int(width * mlp_ratio)
        self.blocks = mlp_blocks(depth, width=width, num_heads=num_heads, hidden=hidden, activation=activation)
        self.proj_out = nn.Linear(width, dim_out)
        self.norm_out = nn.LayerNorm(dim_out) if out_norm else nn.Identity()
        init_transformer(self)

    def forward(self, x_BND: Tensor, grid: Grid) -> Tensor:
        x_BND = self.proj_in(x_BND)
        rotation = grid_rotation(grid, self.head_dim, device=x_BND.device)
        for block in self.blocks:
            x_BND = block(x_BND, rotation)
        return self.norm_out(self.proj_out(x_BND))
