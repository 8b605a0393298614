"""Noise for decoders that invent detail: the same tokens give the same picture, whatever shares their batch."""

import hashlib

import numpy as np
import torch
from torch import Tensor


def noise_of_codes(codes_BND: Tensor, *, seed: int) -> Tensor:
    """Standard normal, shaped like the codes; each picture's is a pure function of (seed, its own codes).

    Only the signs of the codes are read, so that rounding on another device draws the same noise.
    """
    signs = (codes_BND.detach() > 0).flatten(1).cpu().numpy()
    drawn = [torch.randn(codes_BND.shape[1:], generator=_generator(row, seed)) for row in signs]
    return torch.stack(drawn).to(codes_BND)


def _generator(signs: np.ndarray, seed: int) -> torch.Generator:
    digest = hashlib.blake2b(np.packbits(signs).tobytes(), digest_size=8, key=str(seed).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
