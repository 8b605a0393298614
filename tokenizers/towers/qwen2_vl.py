"""Qwen2-VL's vision transformer (arXiv 2409.12191): any size, rotary positions, 2 x 2 patches merged at the end."""

import torch.nn.functional as F
from torch import Tensor, nn

from ...common.timm_weights import start_from
from ...common.types import Grid
from ...layers.rotary import blockwise, grid_rotation
from ...layers.transformer import init_transformer, mlp_blocks
from .base import Standardize, Tower

# Sides in multiples of 28 that ILLUME+ gives to images of these sides; others are rounded down.
PUBLISHED_SIZES = {
    (256, 256): (252, 252), (512, 512): (504, 504), (512, 384): (448, 336), (384, 512): (336, 448),
    (768, 384): (728, 364), (384, 768): (364, 728), (1024, 256): (1008, 252), (256, 1024): (252, 1008),
    (384, 576): (336, 504), (576, 384): (504, 336), (960, 320): (924, 308), (320, 960): (308, 924),
}  # fmt: skip


class Qwen2VLTower(Tower):
    """Image scaled to multiples of merge * patch_size, blocks, then an mlp over each merge x merge patches.

    width: of the tokens that come out. inner_width, depth, num_heads, mlp_ratio: of the blocks.
    out_norm: a layer norm without parameters behind it (what DualViTok distils into its codes).
    trained: off keeps it as it is; it still goes into exports, as nothing else makes these tokens.
    pretrained: path of a file in Qwen's names (`patch_embed.proj.weight`, `blocks.N...`, `merger...`), or null.
    """

    def __init__(
        self,
        *,
        width: int = 3584,
        inner_width: int = 1280,
        depth: int = 32,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        patch_size: int = 14,
        merge: int = 2,
        frames: int = 2,
        activation: str = "quick_gelu",
        out_norm: bool = True,
        trained: bool = False,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.width, self.num_heads = width, num_heads
        self.patch_size, self.merge, self.frames, self.trained = patch_size, merge, frames, trained
        self.step = patch_size * merge
        self.standardize = Standardize("clip")
        kernel = (frames, patch_size, patch_size)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv3d(3, inner_width, kernel, stride=kernel, bias=False)})
        hidden = int(inner_width * mlp_ratio)
        self.blocks = mlp_blocks(depth, width=inner_width, num_heads=num_heads, hidden=hidden, activation=activation)
        merged = inner_width * merge**2
        mlp = nn.Sequential(nn.Linear(merged, merged), nn.GELU(), nn.Linear(merged, width))
        self.merger = nn.ModuleDict({"ln_q": nn.LayerNorm(inner_width, eps=1e-6), "mlp": mlp})
        self.out_norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False) if out_norm else nn.Identity()
        init_transformer(self)
        start_from(self, pretrained)
        self.frozen_from_nothing = pretrained is None and not trained
        self.requires_grad_(trained)

    def train(self, mode: bool = True) -> "Qwen2VLTower":
        return super().train(mode and self.trained)

    def seen_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Of the image that is cut into patches."""
        published = PUBLISHED_SIZES.get((image_size[0], image_size[1])) if self.step == 28 else None
        height, width = (max(self.step, side // self.step * self.step) for side in image_size)
        return published or (height, width)

    def grid(self, image_size: tuple[int, int]) -> Grid:
        height, width = self.seen_size(image_size)
        return height // self.step, width // self.step

    def forward(self, images: Tensor) -> Tensor:
        size = self.seen_size((images.shape[-2], images.shape[-1]))
        scaled = F.interpolate((images.float() + 1) / 2, size, mode="bicubic", antialias=True)
        seen = self.standardize(scaled.clamp(0, 1).to(images.dtype) * 2 - 1)
        still = seen[:, :, None].expand(-1, -1, self.frames, -1, -1)  # an image is a video that stands still
        x_BDhw = self.patch_embed["proj"](still)[:, :, 0]
        grid = (x_BDhw.shape[-2], x_BDhw.shape[-1])
        x_BND = blockwise(x_BDhw.permute(0, 2, 3, 1), self.merge)
        head_dim = x_BND.shape[-1] // self.num_heads
        rotation = grid_rotation(grid, head_dim, device=x_BND.device, merge=self.merge)
        for block in self.blocks:
            x_BND = block(x_BND, rotation)
        merged = self.merger["ln_q"](x_BND).unflatten(1, (-1, self.merge**2)).flatten(2)
        return self.out_norm(self.merger["mlp"](merged))
