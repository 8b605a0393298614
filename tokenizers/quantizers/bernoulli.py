"""Bernoulli bits (binary auto-encoder of ELM, arXiv 2410.16257, and Instella-T2I, 2506.21022)."""

from typing import Literal

import torch
from torch import Tensor, nn

from .base import StreamQuantized, TokenQuantizer
from .shared.binary_entropy import binary_entropies, widest_group
from .shared.limits import check_positive
from .shared.sign import MAX_INDEX_BITS


class Bernoulli(TokenQuantizer):
    """A linear map to a logit per bit, a coin of probability sigmoid(logit), and a linear map of the bits to the code.

    Raw losses, in ELM with weight 0: `variance` mean p (1 - p), which draws a bit's probability to 0 or 1, and
    `entropy` H(code | token) - H(code) of the coins themselves, jointly over groups of at most 18 bits. The variance is
    not called `commit`, as every swap would then weigh it like one: at 0.1 bits are settled before they mean anything.

    sample: "always" draws in eval too, as ELM's published models do: then `stochastic` is True and metrics vary;
        "training" thresholds at 1/2 in eval (Instella-T2I); "never" thresholds everywhere (ELM's `deter`).
    temperature: of the coin while it is drawn, sigmoid(logit / temperature); gradients and losses are of the plain one.
    groups: indices per token, of bits / groups bits each; needed where a token has more bits than int64.
    """

    loss_names: tuple[str, ...] = ("variance", "entropy")

    def __init__(
        self,
        *,
        dim: int,
        bits: int = 16,
        groups: int = 1,
        sample: Literal["always", "training", "never"] = "training",
        temperature: float = 1.0,
    ) -> None:
        if groups < 1 or bits % groups:
            raise ValueError(f"groups={groups}: bits={bits} cannot be split into that many equal parts")
        if not 1 <= bits // groups <= MAX_INDEX_BITS:
            more = -(-bits // MAX_INDEX_BITS)
            raise ValueError(f"bits={bits}: an index of 1 to {MAX_INDEX_BITS} bits fits int64; set groups to {more}")
        check_positive(temperature=temperature)
        super().__init__(dim=dim, code_dim=bits)
        self.project_in = nn.Linear(dim, bits)
        self.project_out = nn.Linear(bits, dim, bias=False)  # the code table: a code is the sum of its bits' rows
        self.vocabulary = (2 ** (bits // groups),) * groups
        self.groups, self.temperature = groups, temperature
        self.entropy_group_bits = widest_group(bits)
        self.sample = sample
        self.stochastic = sample == "always"
        self.joined_batch_equal = sample == "never"  # else every process draws its own bits
        self.place = nn.Buffer(torch.arange(bits // groups), persistent=False)

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        probability = z_BND.sigmoid()
        draws = self.sample == "always" or (self.sample == "training" and self.training)
        bits = torch.bernoulli((z_BND.detach() / self.temperature).sigmoid()) if draws else (z_BND > 0).to(z_BND.dtype)
        indices = (bits.long().unflatten(-1, (self.groups, -1)) << self.place).sum(dim=-1)
        if not self.training:
            return StreamQuantized(bits, indices)
        per_token, of_mean = binary_entropies(z_BND.flatten(0, 1), group_bits=self.entropy_group_bits)
        losses = {"variance": (probability * (1 - probability)).mean(), "entropy": per_token - of_mean}
        return StreamQuantized(probability + (bits - probability).detach(), indices, losses)

    def lookup(self, indices_BNK: Tensor) -> Tensor:
        return ((indices_BNK[..., None] >> self.place) & 1).to(torch.float32).flatten(-2)
