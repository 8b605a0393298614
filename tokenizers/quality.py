"""The shortest prefix of tokens that is good enough, image by image: `tokenize(images, quality="psnr>=24")`."""

import re
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..common.errors import UserError
from ..common.pixels import psnr_from_mse, squared_error_per_image, to_uint8
from ..common.types import Quantized
from .token_dropout.prefixes import doubling_lengths, prefixes

if TYPE_CHECKING:
    from .tokenizer import Tokenizer

PSNR_CAP = 100.0  # of identical images, as in the reports
SENSE = {"psnr": ">=", "mse": "<=", "l1": "<="}


@dataclass(frozen=True)
class Quality:
    """A bound on one image's reconstruction, measured as the reports do: bytes, rounded once.

    psnr in dB. mse and l1 are means in units of the full range, so mse<=0.01 is psnr>=20.
    """

    metric: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> "Quality":
        found = re.fullmatch(r"\s*(\w+)\s*(>=|<=)\s*(\d*\.?\d+(?:[eE][+-]?\d+)?)\s*", text)
        if not found or SENSE.get(found[1]) != found[2]:
            raise UserError(
                f"quality={text!r}: psnr>=DB, mse<=ERROR or l1<=ERROR (errors of the full range, 0 to 1): psnr>=24"
            )
        return cls(found[1], float(found[3]))

    def __str__(self) -> str:
        return f"{self.metric}{SENSE[self.metric]}{self.bound:g}"

    def reached(self, reference: Tensor, reconstruction: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] twice to bool [B]."""
        if reference.device.type == "mps":  # no float64 there
            reference, reconstruction = reference.cpu(), reconstruction.cpu()
        if self.metric == "l1":
            return (reference.float() - reconstruction.float()).abs().mean((1, 2, 3)) / 255 <= self.bound
        mse = squared_error_per_image(reference, reconstruction)
        return psnr_from_mse(mse, PSNR_CAP) >= self.bound if self.metric == "psnr" else mse / 255**2 <= self.bound


@dataclass
class ShortestPrefixes:
    quantized: Quantized  # cut to `lengths`
    lengths: list[int]
    missed: list[bool]  # True where no length that was tried reaches the quality; those images keep all tokens

    def warn_of_missed(self, quality: str) -> None:
        if count := sum(self.missed):
            text = f"quality={quality}: {count} of {len(self.missed)} images miss it, and keep all their tokens"
            warnings.warn(text, stacklevel=4)


@torch.no_grad()
def shortest_prefixes(
    tokenizer: "Tokenizer", images: Tensor, quality: Quality, *, conditions: Tensor | None = None
) -> ShortestPrefixes:
    """One encode; then decodes, each of all images that are still undecided, every one at a length of its own.

    Lengths 1, 2, 4 ... all are tried until one reaches the quality, then the gap below it is bisected: at most
    2 log2(all) decodes an image. Quality need not grow with every token, so what is promised is what was measured:
    the length found reaches it, one token fewer misses it, and so does every smaller power of two. Bisection from all
    tokens down would need half the decodes, but gives up on an image whose last tokens harm it, and pays for long
    prefixes where short ones do.
    """
    quantized = tokenizer.quantize(images)
    reference = to_uint8(images)
    batch, total = quantized.codes["main"].x_BND.shape[:2]
    missing, reaching = [0] * batch, [0] * batch  # longest length known to miss below the shortest known to reach

    def try_lengths(tried: dict[int, int]) -> None:
        rows, lengths = list(tried), list(tried.values())
        codes = prefixes(tokenizer.variable(), quantized, rows, lengths).codes
        shown = None if conditions is None else conditions[rows]
        made = to_uint8(tokenizer.decode(codes, conditions=shown))
        for row, length, good in zip(rows, lengths, quality.reached(reference[rows], made).tolist(), strict=True):
            (reaching if good else missing)[row] = length

    for length in doubling_lengths(total):
        if undecided := [row for row in range(batch) if not reaching[row]]:
            try_lengths(dict.fromkeys(undecided, length))
    missed = [not length for length in reaching]
    while gaps := {
        row: (low + high) // 2 for row, (low, high) in enumerate(zip(missing, reaching, strict=True)) if high - low > 1
    }:
        try_lengths(gaps)
    lengths = [length or total for length in reaching]
    return ShortestPrefixes(tokenizer.variable().keep(quantized, lengths), lengths, missed)
