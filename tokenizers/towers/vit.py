"""The vision transformers of CLIP (arXiv 2103.00020) and SigLIP (arXiv 2303.15343, 2502.14786), in timm's names."""

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from ...common.timm_weights import start_from
from ...common.types import Grid, height_width
from ...layers.transformer import init_transformer, mlp_blocks
from .base import Standardize, Tower


class ViTTower(Tower):
    """Patches, learned positions, blocks, last norm.

    depth: blocks that are run; fewer than the model has taps an earlier layer (26 of SigLIP's 27: `hidden_states[-2]`).
    mlp_width: 4 * width by default. final_norm: as the model's last norm; off for inner layers.
    class_token, pre_norm, patch_bias, eps, activation: CLIP has true, true, false, 1e-5, quick_gelu.
    statistics: what the weights expect of images: half (SigLIP), clip, imagenet, none.
    pretrained: a timm model, the path of a file in timm's names, or null.
    Sides that are no multiple of patch_size lose their rest, as 384 = 27 * 14 + 6 does in SigLIP.
    """

    def __init__(
        self,
        *,
        image_size: int | Sequence[int],
        patch_size: int = 16,
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_width: int | None = None,
        activation: str = "gelu_tanh",
        class_token: bool = False,
        pre_norm: bool = False,
        patch_bias: bool = True,
        final_norm: bool = True,
        eps: float = 1e-6,
        statistics: str = "half",
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.width, self.patch_size, self.prefix = width, patch_size, int(class_token)
        size = height_width(image_size)
        self.trained_grid = self.grid(size)
        self.standardize = Standardize(statistics)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch_size, stride=patch_size, bias=patch_bias)})
        if class_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, width).normal_(std=1e-6))
        positions = self.prefix + self.trained_grid[0] * self.trained_grid[1]
        self.pos_embed = nn.Parameter(torch.empty(1, positions, width).normal_(std=width**-0.5))
        self.norm_pre = nn.LayerNorm(width, eps=eps) if pre_norm else nn.Identity()
        hidden = mlp_width or 4 * width
        self.blocks = mlp_blocks(depth, width=width, num_heads=num_heads, hidden=hidden, activation=activation, eps=eps)
        self.norm = nn.LayerNorm(width, eps=eps) if final_norm else nn.Identity()
        init_transformer(self)
        start_from(self, pretrained, img_size=size)

    def grid(self, image_size: tuple[int, int]) -> Grid:
        height, width = image_size
        if min(height, width) < self.patch_size:
            raise ValueError(f"patch_size={self.patch_size}: image_size={list(image_size)} is smaller than a patch")
        return height // self.patch_size, width // self.patch_size

    def embed(self, images: Tensor) -> Tensor:
        """Patches with positions, the class token in front: what the first block reads."""
        patches_BChw = self.patch_embed["proj"](self.standardize(images))
        x_BND = patches_BChw.flatten(2).transpose(1, 2)
        if self.prefix:
            x_BND = torch.cat([self.cls_token.expand(len(x_BND), -1, -1), x_BND], dim=1)
        return self.norm_pre(x_BND + self._positions(tuple(patches_BChw.shape[-2:])))

    def _positions(self, grid: Grid) -> Tensor:
        if grid == self.trained_grid:
            return self.pos_embed
        given: dict[str, Any] = {"new_size": list(grid), "old_size": list(self.trained_grid)}
        return resample_abs_pos_embed(self.pos_embed, num_prefix_tokens=self.prefix, **given)

    def forward(self, images: Tensor) -> Tensor:
        x_BND = self.embed(images)
        for block in self.blocks:
            x_BND = block(x_BND)
        return self.norm(x_BND)[:, self.prefix :]

    def tapped(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Patch tokens after each of `layers`, counted from 1, without the last norm."""
        x_BND, found = self.embed(images), {}
        for number, block in enumerate(self.blocks, start=1):
            x_BND = block(x_BND)
            if number in layers:
                found[number] = x_BND[:, self.prefix :]
        return [found[layer] for layer in layers]
