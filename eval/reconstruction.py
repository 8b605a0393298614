"""Reconstruction of a batch by a tokenizer, in eval mode and exact float32, as bytes and unrounded."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..common.pixels import to_model_range, to_pixels
from ..common.precision import tf32
from ..common.types import IndexSegment, Latents, Quantized


@dataclass(frozen=True)
class Reconstructed:
    """reference, pixels: uint8. unrounded: the clamped [-1, 1] reconstruction."""

    reference: Tensor
    pixels: Tensor
    unrounded: Tensor
    quantized: Quantized


@dataclass(frozen=True)
class Shapes:
    """What a tokenizer makes of the images of this pass; a process without images is told by the others."""

    image_size: tuple[int, int]
    layout: tuple[IndexSegment, ...]
    tokens: int


class Reconstruction:
    def __init__(self, tokenizer: Any, *, device: torch.device, rounding: str) -> None:
        self.tokenizer, self.device, self.rounding = tokenizer, device, rounding

    def __call__(self, batch: Mapping[str, Any], rows: Sequence[int] | slice = slice(None)) -> Reconstructed:
        given = batch["image"][rows].to(self.device, non_blocking=True)
        reference = given if given.dtype == torch.uint8 else to_pixels(given, self.rounding)
        quantized = self.tokenizer.quantize(to_model_range(reference) if given.dtype == torch.uint8 else given)
        unrounded = self.decode(batch, quantized.codes, rows)
        return Reconstructed(reference, to_pixels(unrounded, self.rounding), unrounded, quantized)

    def decode(self, batch: Mapping[str, Any], codes: Latents, rows: Sequence[int] | slice) -> Tensor:
        """Conditioned on the captions of those rows, where the decoder reads captions."""
        conditions = {}
        if getattr(self.tokenizer, "conditioner", None) is not None:
            captions = batch.get("caption")
            if captions is not None:
                captions = captions[rows] if isinstance(rows, slice) else [captions[row] for row in rows]
            conditions["conditions"] = self.tokenizer.conditions_of({"caption": captions})
        return self.tokenizer.decode(codes, **conditions).float().clamp_(-1, 1)

    def shapes(self, first: Reconstructed) -> Shapes:
        size = (first.reference.shape[-2], first.reference.shape[-1])
        layout = self.tokenizer.index_layout(size) if first.quantized.indices else ()
        return Shapes(size, tuple(layout), first.quantized.codes["main"].x_BND.shape[1])


@contextmanager
def evaluating(tokenizer: nn.Module, device: torch.device) -> Iterator[None]:
    """On the device, in eval mode, exact; the mode is put back."""
    was_training = tokenizer.training
    tokenizer.to(device).eval()
    with exact_float32(device):
        yield
    tokenizer.train(was_training)


@contextmanager
def exact_float32(device: torch.device) -> Iterator[None]:
    """TF32 and an autocast around the caller would change features, and with them every distance."""
    with torch.autocast(device.type, enabled=False), tf32(False, device):
        yield
