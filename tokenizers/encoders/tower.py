"""A tower as the encoder: UniTok's ViTamin, QLIP's and VILA-U's CLIP or SigLIP, TokenFlow's semantic side."""

from typing import Literal

from torch import Tensor, nn

from ...common.types import Latents, Stream, StreamShape, height_width
from ...layers.transformer import init_transformer
from ..towers.base import Tower
from .base import Encoder


class TowerEncoder(Encoder):
    """The tower's tokens, narrowed to `dim`.

    project: none (dim must be the tower's width, or null), linear, or tanh: linear, tanh, linear (VQ-KD, TokenFlow).
    """

    def __init__(
        self, *, tower: Tower, dim: int | None = None, project: Literal["none", "linear", "tanh"] = "none"
    ) -> None:
        super().__init__()
        width = tower.width
        if project == "none" and dim not in (None, width):
            raise ValueError(f"dim={dim}: with project=none it is the tower's width, {width}")
        self.dim = width if dim is None else dim
        self.tower = tower
        self.project: nn.Module = nn.Identity()
        if project == "linear":
            self.project = nn.Linear(width, self.dim)
        elif project == "tanh":
            self.project = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, self.dim))
        init_transformer(self.project)

    def forward(self, images: Tensor) -> Latents:
        x_BND = self.project(self.tower(images))
        return {"main": Stream(x_BND, grid=self.tower.grid(height_width(images.shape[-2:])))}

    def stream_shapes(self, image_size: tuple[int, int]) -> dict[str, StreamShape]:
        grid = self.tower.grid(height_width(image_size))
        return {"main": StreamShape(grid[0] * grid[1], grid)}
