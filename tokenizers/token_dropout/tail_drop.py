"""Tail token drop of One-D-Piece (Miwa et al., arXiv 2501.10064, section 3.2): the tail is cut off."""

from typing import ClassVar

import torch
from torch import Tensor

from ...common.types import Latents, Stream, has_values
from .base import TokenDropout


class TailDrop(TokenDropout):
    """One length for the whole batch, uniform from `shortest` to all tokens; the tail is cut off, not masked.

    shortest: 1 as published.
    """

    cuts: ClassVar[bool] = True

    def __init__(self, *, shortest: int = 1) -> None:
        super().__init__()
        if shortest < 1:
            raise ValueError(f"shortest={shortest}: at least 1 token")
        self.shortest = shortest

    def draw(self, batch: int, num_tokens: int, device: torch.device) -> Tensor:
        least = min(self.shortest, num_tokens)
        return torch.randint(least, num_tokens + 1, (1,)).expand(batch).to(device)

    def forward(self, codes: Latents) -> Latents:
        stream = codes["main"]
        if not self.training or not has_values(stream.x_BND):  # a plan counts all tokens
            return codes
        length = int(self.draw(1, stream.x_BND.shape[1], torch.device("cpu")))
        mask_BN = None if stream.mask_BN is None else stream.mask_BN[:, :length]
        return {"main": Stream(stream.x_BND[:, :length], None, mask_BN)}
