"""One tower read at several depths: early for pixels, late for semantics (DualToken, Song et al., arXiv 2503.14324)."""

from functools import partial

from torch import Tensor

from ...common.types import Latents, Stream, StreamShape, height_width
from ...layers.attention_projection import AttentionProjection
from ..towers.vit import ViTTower
from .base import Encoder


class TappedTowerEncoder(Encoder):
    """Streams `semantic` and `pixel`, each an attention projection of one layer's tokens to `dim`.

    semantic_layer, pixel_layer: blocks counted from 1. The tower need have no more blocks than the semantic layer.
    shortcut_layer: an earlier one whose own projection, times shortcut_weight, is added to the pixel stream; or null.
    num_heads: of the projections; the ratio of the widths by default.
    """

    def __init__(
        self,
        *,
        tower: ViTTower,
        dim: int = 32,
        semantic_layer: int = 26,
        pixel_layer: int = 6,
        shortcut_layer: int | None = 4,
        shortcut_weight: float = 0.6,
        num_heads: int | None = None,
    ) -> None:
        super().__init__()
        layers = {"semantic_layer": semantic_layer, "pixel_layer": pixel_layer, "shortcut_layer": shortcut_layer}
        for name, layer in layers.items():
            if layer is not None and not 1 <= layer <= len(tower.blocks):
                raise ValueError(f"{name}={layer}: the tower has blocks 1 to {len(tower.blocks)}")
        self.tower = tower
        self.layers, self.shortcut_weight = layers, shortcut_weight
        self.dim = {"semantic": dim, "pixel": dim}
        projection = partial(AttentionProjection, dim_in=tower.width, dim_out=dim, num_heads=num_heads)
        self.to_semantic, self.to_pixel = projection(), projection()
        self.to_shortcut = projection() if shortcut_layer is not None else None

    def forward(self, images: Tensor) -> Latents:
        wanted = [layer for layer in self.layers.values() if layer is not None]
        semantic, pixel, *shortcut = self.tower.tapped(images, wanted)
        pixel = self.to_pixel(pixel)
        if self.to_shortcut is not None:
            pixel = pixel + self.shortcut_weight * self.to_shortcut(shortcut[0])
        grid = self.tower.grid(height_width(images.shape[-2:]))
        return {"semantic": Stream(self.to_semantic(semantic), grid), "pixel": Stream(pixel, grid)}

    def stream_shapes(self, image_size: tuple[int, int]) -> dict[str, StreamShape]:
        grid = self.tower.grid(height_width(image_size))
        return dict.fromkeys(("semantic", "pixel"), StreamShape(grid[0] * grid[1], grid))
