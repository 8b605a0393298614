"""A semantic and a pixel encoder in parallel (TokenFlow, arXiv 2412.03069; ILLUME+, 2504.01934)."""

import torch.nn.functional as F
from torch import Tensor

from ...common.types import Latents, StreamShape, height_width
from .base import Encoder, width_of


class TwoTowerEncoder(Encoder):
    """Streams `semantic` and `pixel`, each from an encoder of one stream.

    same_grid: the pixel encoder sees the image scaled so that its grid is the semantic one's (TokenFlow: 384 pixels
        are 27 x 27 patches of 14, so its pixel side sees 27 * 16 = 432).
    """

    def __init__(self, *, semantic: Encoder, pixel: Encoder, same_grid: bool = False) -> None:
        super().__init__()
        self.semantic, self.pixel = semantic, pixel
        self.pixel_factor: int | None = getattr(pixel, "factor", None) if same_grid else None
        if same_grid and self.pixel_factor is None:
            raise ValueError(f"same_grid=True: {type(pixel).__name__} does not say by how much it shrinks")
        self.dim = {"semantic": width_of(semantic, "semantic"), "pixel": width_of(pixel, "pixel")}

    def pixel_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """What the pixel encoder sees of an image of this size."""
        if self.pixel_factor is None:
            return image_size
        grid = self.semantic.stream_shapes(image_size)["main"].grid
        assert grid is not None
        return grid[0] * self.pixel_factor, grid[1] * self.pixel_factor

    def forward(self, images: Tensor) -> Latents:
        given = (images.shape[-2], images.shape[-1])
        size = self.pixel_size(given)
        seen = images if size == given else F.interpolate(images, size, mode="bicubic")
        return {"semantic": self.semantic(images)["main"], "pixel": self.pixel(seen)["main"]}

    def stream_shapes(self, image_size: tuple[int, int]) -> dict[str, StreamShape]:
        image_size = height_width(image_size)
        pixel = self.pixel.stream_shapes(self.pixel_size(image_size))["main"]
        return {"semantic": self.semantic.stream_shapes(image_size)["main"], "pixel": pixel}
