"""Base of the convolutional grid encoders: their forward pass, and the grid for a size of images."""

import torch.nn.functional as F
from torch import Tensor, nn

from ...common.types import Latents, Stream, StreamShape
from ...layers.resnet import to_tokens
from .base import Encoder


class GridEncoder(Encoder):
    """Convolutions that shrink both sides by `factor`; one vector per cell."""

    dim: int
    factor: int
    conv_in: nn.Conv2d
    levels: nn.ModuleList
    middle: nn.Sequential
    norm_out: nn.GroupNorm
    conv_out: nn.Conv2d

    def features(self, images: Tensor) -> Tensor:
        """[B, D, h, w] after the last convolution."""
        x = self.conv_in(images)
        for level in self.levels:
            x = level(x)
        return self.to_latent(F.silu(self.norm_out(self.middle(x))))

    def to_latent(self, x_BChw: Tensor) -> Tensor:
        return self.conv_out(x_BChw)

    def forward(self, images: Tensor) -> Latents:
        z_BDhw = self.features(images)
        return {"main": Stream(to_tokens(z_BDhw), grid=(z_BDhw.shape[2], z_BDhw.shape[3]))}

    def stream_shapes(self, image_size: tuple[int, int]) -> dict[str, StreamShape]:
        height, width = image_size
        if height % self.factor or width % self.factor or min(height, width) < self.factor:
            raise ValueError(f"this encoder shrinks by {self.factor}, so both sides must be multiples of {self.factor}")
        grid = (height // self.factor, width // self.factor)
        return {"main": StreamShape(grid[0] * grid[1], grid)}
