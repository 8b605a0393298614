"""Gumbel-softmax quantization (Jang et al., arXiv 1611.01144; DALL-E's and VQGAN's discrete VAE)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import StreamQuantized, TokenQuantizer
from .shared.codebook import check_codebook_size
from .shared.limits import check_positive
from .shared.softmax_codes import choose_code, dot_entropies


class GumbelVQ(TokenQuantizer):
    """A learned layer scores the codes; training draws one with Gumbel noise, eval takes the highest.

    Loss, raw: `kl`, the divergence of softmax(scores) from the even distribution, mean over tokens, in nats.

    code_dim: width of the embeddings; scores are a linear layer of the encoder's width.
    temperature, temperature_end, temperature_updates: cosine fall of the softmax's temperature over updates.
    sample_in_eval: draw in eval too, as VQGAN's published code does; reports then say "stochastic".
    """

    loss_names: tuple[str, ...] = ("kl",)
    joined_batch_equal = False  # every process draws its own Gumbel noise

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int = 1024,
        code_dim: int | None = None,
        temperature: float = 1.0,
        temperature_end: float | None = None,
        temperature_updates: int = 0,
        sample_in_eval: bool = False,
    ) -> None:
        super().__init__(dim=dim, code_dim=code_dim)
        check_codebook_size(codebook_size, max(dim, self.code_dim))
        check_positive(temperature=temperature, temperature_end=temperature_end)
        if temperature_updates < 0 or (temperature_updates and temperature_end is None):
            raise ValueError(f"temperature_updates={temperature_updates}: updates of the fall to temperature_end")
        if temperature_end is not None and not temperature_updates:
            raise ValueError(f"temperature_end={temperature_end}: set temperature_updates, the updates it falls over")
        self.vocabulary = (codebook_size,)
        self.start, self.updates = temperature, temperature_updates
        self.end = temperature if temperature_end is None else temperature_end
        self.temperature = temperature
        self.stochastic = sample_in_eval
        self.project_in = nn.Identity()  # the scores are the projection
        self.scores = nn.Linear(dim, codebook_size)
        self.codebook = nn.Parameter(torch.randn(codebook_size, self.code_dim))
        if self.code_dim == dim:
            # Scores start as -|z - e|^2 / 2 up to a constant, so that first draws are near their token. A random layer
            # starts as a lottery, and half as many codes were in use after 150 updates.
            with torch.no_grad():
                self.scores.weight.copy_(self.codebook)
                self.scores.bias.copy_(-self.codebook.square().sum(dim=1) / 2)

    def set_update(self, update: int) -> None:
        done = min(1.0, update / self.updates) if self.updates else 0.0
        self.temperature = self.end + (self.start - self.end) * (1 + math.cos(math.pi * done)) / 2

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        z, keys, bias = z_BND.flatten(0, 1), self.scores.weight.float(), self.scores.bias.float()
        # The seed comes from torch's own stream, so that a resumed run draws the same noise.
        drawing = self.training or self.stochastic
        seed = int(torch.randint(2**62, ())) if drawing else None
        codes, indices_N = choose_code(
            z, keys, self.codebook.float(), bias_K=bias, temperature=self.temperature, noise_seed=seed
        )
        indices = indices_N.view(*z_BND.shape[:2], 1)
        codes = codes.view(*z_BND.shape[:2], codes.shape[1])
        if not self.training:
            return StreamQuantized(codes, indices)
        per_token, _ = dot_entropies(z, keys, 1.0, bias)
        return StreamQuantized(codes, indices, {"kl": math.log(len(keys)) - per_token})

    def lookup(self, indices_BNK: Tensor) -> Tensor:
        return F.embedding(indices_BNK[..., 0], self.codebook.float())
