"""A tokenizer's surface without its cost: cells of 8 x 8, mean grey as index, blurred colour as picture."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imtok.common.types import IndexSegment, Quantized, Stream

LEVELS = 16


class FakeTokenizer(nn.Module):
    """detail: 0 reconstructs the cells' mean colours, 1 the image itself."""

    def __init__(self, *, image_size: int = 32, detail: float = 0.0, continuous: bool = False) -> None:
        super().__init__()
        self.image_size, self.detail, self.continuous = (image_size, image_size), detail, continuous
        self.scale = nn.Parameter(torch.ones(1))
        self.codebook_size, self.bits_per_image = LEVELS, 4.0 * (image_size // 8) ** 2
        self.num_tokens = (image_size // 8) ** 2

    def quantize(self, images: Tensor) -> Quantized:
        cells = F.avg_pool2d(images, 8)
        grey = cells.mean(1).flatten(1)
        ids = ((grey + 1) / 2 * LEVELS).long().clamp(0, LEVELS - 1)
        smooth = F.interpolate(cells, images.shape[-2:], mode="bilinear")
        picture = self.detail * images + (1 - self.detail) * smooth
        indices = {} if self.continuous else {"main": ids[..., None]}
        return Quantized(codes={"main": Stream(picture * self.scale)}, indices=indices)

    def decode(self, codes: dict[str, Stream]) -> Tensor:
        return codes["main"].x_BND

    def index_layout(self, image_size: tuple[int, int] | None = None) -> tuple[IndexSegment, ...]:
        height, width = image_size or self.image_size
        return (IndexSegment("main", (height // 8) * (width // 8), (LEVELS,)),)


def pictures(count: int, size: int = 32, *, seed: int = 0) -> Tensor:
    """uint8 [count, 3, size, size]: smooth colour plus noise whose strength grows with the number."""
    generator = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size, mode="bicubic").clamp(0, 1)
    strength = torch.linspace(0, 0.5, count)[torch.randperm(count, generator=generator)]
    noise = torch.randn(count, 3, size, size, generator=generator) * strength[:, None, None, None]
    return ((smooth + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def batches_of(images: Tensor, batch_size: int = 4) -> list[dict]:
    keys = [f"picture_{i:03d}.png" for i in range(len(images))]
    return [
        {"image": images[i : i + batch_size], "key": keys[i : i + batch_size], "skipped": []}
        for i in range(0, len(images), batch_size)
    ]
