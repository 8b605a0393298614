"""Features without any file: a seeded random network for tests and CI, without perceptual meaning."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.pixels import to_model_range


class RandomConvolutions(nn.Module):
    """64 features from four random layers."""

    width = 64
    classes = None
    weights_are_random = True
    label = "randconv-64"
    source = "seeded"
    sha256 = None

    def __init__(self, *, pixels: str = "uint8", seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for number, (narrow, wide) in enumerate(((3, 16), (16, 32), (32, 64), (64, 64))):
            weight = torch.randn(wide, narrow, 3, 3, generator=generator) * (2 / (9 * narrow)) ** 0.5
            self.register_buffer(f"layer_{number}", weight, persistent=False)
        self.wants_floats = pixels == "float"

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        x = to_model_range(images) if images.dtype == torch.uint8 else images.float()
        for weight in self.buffers():
            x = F.relu(F.conv2d(x, weight, stride=2, padding=1))
        return x.mean((-2, -1)), None
