"""Base classes of quantizers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...common.once_an_update import MovesOnceAnUpdate
from ...common.types import IndexSegment, Latents, Quantized, Shapes, Stream

MAX_CODE_DIM = 2**16


class Quantizer(MovesOnceAnUpdate, nn.Module, ABC):
    """Latents to Quantized, always in fp32: a nearest code decided in bf16 is another code."""

    dim: int | dict[str, int]  # width it reads, given by the encoder
    out_dim: int | dict[str, int]  # width the decoder reads
    reads: ClassVar[tuple[str, ...]] = ("main",)  # streams it wants; ParallelQuantizer takes those that its YAML names
    loss_names: tuple[str, ...] = ()  # keys of Quantized.losses in training mode
    prefix_decodes: bool = True  # False where a token's code needs more than the indices up to it (scales)
    stochastic: bool = False  # True where even eval draws random numbers; reports say so
    # Several processes with equal batches train it as one would on the joined batch, given the first one's draws where
    # codes are revived. Not so where every process draws noise of its own.
    joined_batch_equal: bool = False

    @abstractmethod
    def forward(self, latents: Latents) -> Quantized: ...

    def micro_batch_misfit(self) -> str | None:
        """Why the published update cannot be made of micro-batches, to be read after `tokenizer.quantizer`.

        None: it can, with what moves in the forward handed to `once_an_update`.
        """
        return None

    @abstractmethod
    def index_layout(self, shapes: Shapes) -> tuple[IndexSegment, ...]:
        """How the M axis of the indices is laid out for latents of these shapes."""

    @abstractmethod
    def indices_to_codes(self, indices: dict[str, Tensor], shapes: Shapes) -> Latents:
        """{stream: [B, M, K]} to what the decoder reads."""

    def set_update(self, update: int) -> None:
        """Called before every update, for schedules inside the quantizer."""

    def bits(self, shapes: Shapes) -> float:
        """Nominal bits per image."""
        return sum(s.length * sum(math.log2(k) for k in s.vocabulary) for s in self.index_layout(shapes))


@dataclass
class StreamQuantized:
    """Codes, indices and losses of one stream; `SingleStreamQuantizer` makes a Quantized of it."""

    codes_BND: Tensor
    indices_BNK: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    stats: dict[str, Tensor] = field(default_factory=dict)
    sample_mask: Tensor | None = None


class SingleStreamQuantizer(Quantizer):
    """Quantizer of the stream `main`, projected in and out where the width of its codes differs."""

    out_dim: int
    vocabulary: tuple[int, ...]
    entropy_images: int | None = None  # of one mean code, where the quantizer has an entropy; None: all of the batch

    def __init__(self, *, dim: int, code_dim: int | None = None) -> None:
        super().__init__()
        code_dim = dim if code_dim is None else code_dim
        if not 1 <= code_dim <= MAX_CODE_DIM:
            raise ValueError(f"code_dim={code_dim}: width of a code, from 1 to {MAX_CODE_DIM}; null: as the encoder's")
        self.dim = self.out_dim = dim
        self.code_dim = code_dim
        self.project_in: nn.Module = nn.Identity() if code_dim == dim else nn.Linear(dim, code_dim)
        self.project_out: nn.Module = nn.Identity() if code_dim == dim else nn.Linear(code_dim, dim)

    @abstractmethod
    def quantize_stream(self, stream: Stream) -> StreamQuantized:
        """Projected fp32 vectors, with their grid, to codes of width `code_dim`."""

    def forward(self, latents: Latents) -> Quantized:
        return self.forward_with(self.quantize_stream, latents)

    def forward_with(self, quantize_stream: Callable[[Stream], StreamQuantized], latents: Latents) -> Quantized:
        if set(latents) != {"main"}:
            raise ValueError(
                f"tokenizer.quantizer: {type(self).__name__} reads one stream, the encoder gives {sorted(latents)}"
            )
        stream = latents["main"]
        if stream.mask_BN is not None and self.entropy_images is not None:
            raise ValueError(
                f"tokenizer.quantizer.entropy_images={self.entropy_images}: this encoder masks tokens, which then have "
                "no image; give null"
            )
        with torch.autocast(stream.x_BND.device.type, enabled=False):
            seen = self.seen_tokens(stream)
            seen.x_BND = self.project_in(seen.x_BND.float())
            result = quantize_stream(seen)
            codes = self.project_out(result.codes_BND)
        indices, losses = result.indices_BNK, result.losses
        if not len(seen.x_BND):  # this rank's batch has no token: a mean over nothing is NaN, and one NaN stops all
            losses = {name: loss.nan_to_num() for name, loss in losses.items()}
        if stream.mask_BN is not None:
            codes = put_back(codes, stream.mask_BN, fill=0)
            indices = put_back(indices, stream.mask_BN, fill=-1)
        return Quantized(
            codes={"main": Stream(codes, stream.grid, stream.mask_BN)},
            indices={"main": indices},
            losses=losses,
            sample_mask=result.sample_mask,
            stats=result.stats,
        )

    @staticmethod
    def seen_tokens(stream: Stream) -> Stream:
        """All tokens [B, N, D], or those that are there, each as a sample of one, [tokens, 1, D], without a grid.

        So a masked token is in no loss, entropy, running mean or revival. Counting them makes a GPU wait; only encoders
        of variable length mask.
        """
        if stream.mask_BN is None:
            return Stream(stream.x_BND, stream.grid)
        return Stream(stream.x_BND[stream.mask_BN][:, None])

    def index_layout(self, shapes: Shapes) -> tuple[IndexSegment, ...]:
        shape = shapes["main"]
        return (IndexSegment("main", shape.num_tokens, self.vocabulary, grid=shape.grid),)


class TokenQuantizer(SingleStreamQuantizer):
    """Single-stream quantizer whose codes are looked up token by token."""

    @abstractmethod
    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        """fp32 vectors of width `code_dim` to codes of the same width."""

    @abstractmethod
    def lookup(self, indices_BNK: Tensor) -> Tensor:
        """Indices to codes of width `code_dim`: what `quantize` hands on in eval mode."""

    def quantize_stream(self, stream: Stream) -> StreamQuantized:
        return self.quantize(stream.x_BND)

    def indices_to_codes(self, indices: dict[str, Tensor], shapes: Shapes) -> Latents:
        main = indices["main"]
        with torch.autocast(main.device.type, enabled=False):
            codes = self.project_out(self.lookup(main.clamp(min=0)))
        return {"main": only_tokens(codes, main, shapes)}


def main_width(quantizer: Quantizer) -> int:
    """Width of the codes of one that gives the stream `main` alone."""
    assert isinstance(quantizer.out_dim, int)
    return quantizer.out_dim


def put_back(rows: Tensor, mask_BN: Tensor, *, fill: int) -> Tensor:
    """[tokens, 1, ...] to [B, N, ...], with `fill` where there is no token."""
    whole = rows.new_full((*mask_BN.shape, *rows.shape[2:]), fill)
    whole[mask_BN] = rows[:, 0]
    return whole


def only_tokens(codes_BND: Tensor, indices_BNK: Tensor, shapes: Shapes) -> Stream:
    """Index -1 is no token: masked, and its code 0, as `forward` has them."""
    mask_BN, grid = indices_BNK[..., 0] >= 0, shapes["main"].grid
    if bool(mask_BN.all()):
        return Stream(codes_BND, grid)
    return Stream(codes_BND.masked_fill(~mask_BN[..., None], 0), grid, mask_BN)
