"""Deterministic noise for sampling decoders: the same tokens give the same image in any batch."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from ..common.types import has_values


def noise_of_codes(codes_BND: Tensor, *, seed: int) -> Tensor:
    """Standard normal, shaped like the codes; each image's is a pure function of (seed, its own codes).

    Only the signs of the codes are read, so that rounding on another device draws the same noise.
    """
    signs = (codes_BND.detach() > 0).flatten(1).cpu().numpy()
    drawn = [torch.randn(codes_BND.shape[1:], generator=_seeded(np.packbits(row).tobytes(), seed)) for row in signs]
    return torch.stack(drawn).to(codes_BND)


def picture_noise(codes_BND: Tensor, shape: tuple[int, ...], *, seed: int) -> Tensor:
    """Standard normal [B, *shape]; a pure function of (seed, the image's first token), in coarse steps of its values.

    So reconstructions of one image at growing lengths differ by what their tokens say, not by their noise.
    """
    if not has_values(codes_BND):
        return codes_BND.new_empty((len(codes_BND), *shape))
    # The offset keeps the levels of FSQ and of signs away from where a step begins.
    steps = (codes_BND[:, 0].detach().float() * 8 + 0.37).floor().to(torch.int32).cpu().numpy()
    drawn = [torch.randn(shape, generator=_seeded(row.tobytes(), seed)) for row in steps]
    return torch.stack(drawn).to(codes_BND.device)


def _seeded(content: bytes, seed: int) -> torch.Generator:
    digest = hashlib.blake2b(content, digest_size=8, key=str(seed).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
