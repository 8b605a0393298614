"""What a quantizer promises, and the shell that all single-stream quantizers share."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..types import IndexSegment, Latents, Quantized, Shapes, Stream


class Quantizer(nn.Module, ABC):
    """Latents to Quantized, always in fp32: a nearest code decided in bf16 is another code."""

    dim: int | dict[str, int]  # width it reads, given by the encoder
    out_dim: int | dict[str, int]  # width the decoder reads
    reads: ClassVar[tuple[str, ...]] = ("main",)  # streams it wants; ParallelQuantizer takes those that its YAML names
    loss_names: ClassVar[tuple[str, ...]] = ()  # keys of Quantized.losses in training mode
    stochastic: ClassVar[bool] = False  # True where even eval draws random numbers; reports say so
    joined_batch_equal: ClassVar[bool] = False  # several processes train it as one would on the joined batch

    @abstractmethod
    def forward(self, latents: Latents) -> Quantized: ...

    @abstractmethod
    def index_layout(self, shapes: Shapes) -> tuple[IndexSegment, ...]:
        """How the M axis of the indices is laid out for latents of these shapes."""

    @abstractmethod
    def indices_to_codes(self, indices: dict[str, Tensor], shapes: Shapes) -> Latents:
        """{stream: [B, M, K]} to what the decoder reads."""

    def set_update(self, update: int) -> None:
        """Called before every update, for schedules inside the quantizer."""

    def bits(self, shapes: Shapes) -> float:
        """Nominal bits an image."""
        return sum(s.length * sum(math.log2(k) for k in s.vocabulary) for s in self.index_layout(shapes))


@dataclass
class StreamQuantized:
    """What one stream gives; `SingleStreamQuantizer` wraps it into Quantized."""

    codes_BND: Tensor
    indices_BNK: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)


class SingleStreamQuantizer(Quantizer):
    """Reads the stream `main`, one index group a token; projects in and out where its own width differs."""

    vocabulary: tuple[int, ...]

    def __init__(self, *, dim: int, code_dim: int | None = None) -> None:
        super().__init__()
        code_dim = code_dim or dim
        self.dim = self.out_dim = dim
        self.code_dim = code_dim
        self.project_in = nn.Identity() if code_dim == dim else nn.Linear(dim, code_dim)
        self.project_out = nn.Identity() if code_dim == dim else nn.Linear(code_dim, dim)

    @abstractmethod
    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        """fp32 vectors of width `code_dim` to codes of the same width."""

    @abstractmethod
    def lookup(self, indices_BNK: Tensor) -> Tensor:
        """Indices to codes of width `code_dim`: what `quantize` hands on in eval mode."""

    def forward(self, latents: Latents) -> Quantized:
        if set(latents) != {"main"}:
            raise ValueError(
                f"tokenizer.quantizer: {type(self).__name__} reads one stream, the encoder gives {sorted(latents)}"
            )
        stream = latents["main"]
        with torch.autocast(stream.x_BND.device.type, enabled=False):
            result = self.quantize(self.project_in(stream.x_BND.float()))
            codes = self.project_out(result.codes_BND)
        indices = result.indices_BNK
        if stream.mask_BN is not None:
            indices = indices.masked_fill(~stream.mask_BN[..., None], -1)
        return Quantized(
            codes={"main": Stream(codes, stream.grid, stream.mask_BN)},
            indices={"main": indices},
            losses=result.losses,
            stats=result.stats,
        )

    def index_layout(self, shapes: Shapes) -> tuple[IndexSegment, ...]:
        shape = shapes["main"]
        return (IndexSegment("main", shape.num_tokens, self.vocabulary, grid=shape.grid),)

    def indices_to_codes(self, indices: dict[str, Tensor], shapes: Shapes) -> Latents:
        main = indices["main"]
        mask = main[..., 0] >= 0
        with torch.autocast(main.device.type, enabled=False):
            codes = self.project_out(self.lookup(main.clamp(min=0)))
        return {"main": Stream(codes, shapes["main"].grid, None if bool(mask.all()) else mask)}
