"""A tokenizer of variable length that needs no training: cosine coefficients, low frequencies first.

The decoder knows no mask: a hidden token counts only as the zero that token dropout puts there. The basis is
orthonormal and a coefficient is never rounded away from zero by more than itself, so each further token can only help.
"""

import math

import torch
from torch import Tensor

from imtok.common.types import Latents, Stream, StreamShape
from imtok.decoders.base import Decoder
from imtok.tokenizers.encoders.base import Encoder
from imtok.tokenizers.quantizers.base import StreamQuantized, TokenQuantizer
from imtok.tokenizers.token_dropout.base import TokenDropout

LEVELS, STEP = 256, 0.25


def cosines(size: int) -> Tensor:
    """[frequency, place], orthonormal (DCT-II)."""
    at = torch.arange(size, dtype=torch.float64)
    rows = torch.cos(math.pi / size * (at[None] + 0.5) * at[:, None]) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows.float()


def order(size: int, num_tokens: int) -> Tensor:
    """Flat places of the lowest frequencies of a size x size table."""
    i = torch.arange(size)
    return (i[:, None] ** 2 + i[None] ** 2).flatten().argsort(stable=True)[:num_tokens]


class CosineEncoder(Encoder):
    def __init__(self, *, num_tokens: int) -> None:
        super().__init__()
        self.dim, self.num_tokens = 3, num_tokens

    def forward(self, images: Tensor) -> Latents:
        size = images.shape[-1]
        table = cosines(size) @ images @ cosines(size).mT
        return {"main": Stream(table.flatten(2)[..., order(size, self.num_tokens)].mT)}

    def stream_shapes(self, image_size: tuple[int, int]) -> dict[str, StreamShape]:
        return {"main": StreamShape(self.num_tokens)}


class Steps(TokenQuantizer):
    """Each channel to a multiple of STEP."""

    vocabulary = (LEVELS,) * 3

    def __init__(self, *, dim: int) -> None:
        super().__init__(dim=dim)

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        indices = (z_BND / STEP).round().long().clamp(-LEVELS // 2, LEVELS // 2 - 1) + LEVELS // 2
        return StreamQuantized(self.lookup(indices), indices)

    def lookup(self, indices_BNK: Tensor) -> Tensor:
        return (indices_BNK - LEVELS // 2) * STEP


class CosineDecoder(Decoder):
    """harm: strength of noise that all tokens bring and fewer do not, for quality that falls again."""

    def __init__(self, *, dim: int, image_size: int, harm: float = 0.0) -> None:
        super().__init__()
        self.dim, self.image_size, self.harm = dim, image_size, harm
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.decoded: list[int] = []  # batch sizes, for tests that count

    def forward(self, codes: Latents) -> Tensor:
        x_BND, mask_BN = codes["main"].x_BND, codes["main"].mask_BN
        self.decoded.append(len(x_BND))
        size = self.image_size
        table = x_BND.new_zeros(len(x_BND), x_BND.shape[-1], size * size)
        table[..., order(size, x_BND.shape[1])] = x_BND.mT
        images = cosines(size).mT @ table.unflatten(-1, (size, size)) @ cosines(size) * self.scale
        whole = torch.ones(len(images), dtype=torch.bool) if mask_BN is None else mask_BN.all(1)
        noise = torch.randn(images.shape[1:], generator=torch.Generator().manual_seed(0))
        return images + self.harm * whole[:, None, None, None] * noise

    def facts(self) -> dict[str, str | int | float]:
        return {"basis": "cosines", "harm": self.harm}


class CutTail(TokenDropout):
    """A uniform length a sample."""

    def __init__(self) -> None:
        super().__init__()

    def draw(self, batch: int, num_tokens: int, device: torch.device) -> Tensor:
        return torch.randint(1, num_tokens + 1, (batch,), device=device)
