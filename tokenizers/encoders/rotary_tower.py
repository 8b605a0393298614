"""A frozen tower and trained blocks behind it: the semantic side of ILLUME+'s DualViTok (arXiv 2504.01934)."""

from torch import Tensor

from ...common.types import Latents, Stream, StreamShape, height_width
from ...layers.rotary_adapter import RotaryBlocks
from ..towers.base import Tower
from .base import Encoder


class RotaryTowerEncoder(Encoder):
    """The tower's tokens through `depth` blocks with rotary positions, down to `dim`.

    The tower's own output is what the codes have to tell: losses read it by the tap `encoder.semantic.tower`.
    """

    def __init__(
        self,
        *,
        tower: Tower,
        dim: int = 32,
        width: int = 1280,
        depth: int = 4,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        activation: str = "quick_gelu",
    ) -> None:
        super().__init__()
        self.dim, self.tower = dim, tower
        self.narrow = RotaryBlocks(
            dim_in=tower.width,
            dim_out=dim,
            width=width,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            activation=activation,
            project_in=tower.width != width,
        )

    def forward(self, images: Tensor) -> Latents:
        grid = self.tower.grid(height_width(images.shape[-2:]))
        return {"main": Stream(self.narrow(self.tower(images), grid), grid)}

    def stream_shapes(self, image_size: tuple[int, int]) -> dict[str, StreamShape]:
        grid = self.tower.grid(height_width(image_size))
        return {"main": StreamShape(grid[0] * grid[1], grid)}
