"""Types passed between encoder, quantizer and decoder.

Shapes: B batch, N latent tokens of a stream, D channels, M indices of a stream, K parallel codebooks, H W pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

Grid = tuple[int, int]


@dataclass
class Stream:
    """One sequence of token vectors."""

    x_BND: Tensor
    grid: Grid | None = None  # (h, w) with h * w == N; None for one-dimensional tokens
    mask_BN: Tensor | None = None  # True where the sample has a token; None: everywhere

    def as_grid(self) -> Tensor:
        """[B, D, h, w]; comes out channels_last without a copy."""
        assert self.grid is not None, "codes on a grid are needed here"
        return self.x_BND.transpose(1, 2).unflatten(2, self.grid)

    def mean(self) -> Tensor:
        """Over the tokens that are there."""
        if self.mask_BN is None:
            return self.x_BND.mean(dim=1)
        there_BN1 = self.mask_BN[..., None].to(self.x_BND.dtype)
        return (self.x_BND * there_BN1).sum(dim=1) / there_BN1.sum(dim=1).clamp(min=1)


Latents = dict[str, Stream]  # {"main": ...}, or {"semantic": ..., "pixel": ...}


@dataclass(frozen=True)
class StreamShape:
    """What a stream looks like at one image size, known without running anything."""

    num_tokens: int
    grid: Grid | None = None


@dataclass(frozen=True)
class IndexSegment:
    """A range of the M axis of what `tokenize` returns."""

    stream: str
    length: int
    vocabulary: tuple[int, ...]  # size of each of the K codebooks
    scale: int = 0
    grid: Grid | None = None


@dataclass
class Quantized:
    """What a quantizer returns."""

    codes: Latents  # what the decoder reads; gradients reach the encoder through them
    indices: dict[str, Tensor]  # {stream: int64 [B, M, K]}; -1 where masked; empty for a continuous bottleneck
    losses: dict[str, Tensor] = field(default_factory=dict)  # raw, unweighted, named
    sample_mask: Tensor | None = None  # [B], False for samples that a method excludes from other terms
    stats: dict[str, Tensor] = field(default_factory=dict)  # detached scalars


@dataclass
class TokenizerOutput:
    """What one training forward returns; losses read from it."""

    latents: Latents
    quantized: Quantized
    # [B, 3, H, W] in [-1, 1], unclamped; None where a sample is not cheap (flow decoders)
    reconstruction: Tensor | None
    decoder_losses: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[str, Tensor] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)


Shapes = Mapping[str, StreamShape]


def height_width(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def has_values(tensor: Tensor) -> bool:
    """False for tensors of a shape without data, with which `imtok plan` counts: nothing may depend on their values."""
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))
