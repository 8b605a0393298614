"""Index backpropagation quantization (Shi et al., arXiv 2412.02692): every code learns at every step.

Memory is tokens in a chunk x codes, never tokens x codes (softmax_codes.py): 2^18 codes of width 256 train.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from .base import StreamQuantized, TokenQuantizer
from .shared.codebook import check_codebook_size
from .shared.codebook_start import CodebookStart, codebook_start
from .shared.entropy_groups import check_entropy_images, grouped_entropies
from .shared.limits import check_positive
from .shared.softmax_codes import choose_code, dot_entropies


class IBQ(TokenQuantizer):
    """The index is the highest dot product; the gradient goes through the softmax over all codes.

    Losses, raw, with z_q straight through the softmax and z_h the code as it is: `commit` |z_q - z|^2 + |sg(z_h) - z|^2
    (published weight 1), `codebook` |z_h - sg(z)|^2 (published weight 0.25), `entropy` H(code | token) - H(code)
    (published weight 0.05).

    temperature: of the softmax that gradients pass through; published: 1.
    entropy_temperature: of the entropies' softmax; null: no such loss.
    entropy_images: images whose tokens make one mean code of H(code): published code means over one GPU's 4. null: all
        images of all processes.
    unit_length: compare unit vectors (not in the paper); then `temperature` should be about 0.1.
    init: where the codes start, see codebook_start.py.
    """

    loss_names: tuple[str, ...] = ("commit", "codebook")
    joined_batch_equal = True

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int = 1024,
        code_dim: int | None = None,
        temperature: float = 1.0,
        entropy_temperature: float | None = 0.01,
        entropy_images: int | None = None,
        unit_length: bool = False,
        init: CodebookStart = "normal",
    ) -> None:
        super().__init__(dim=dim, code_dim=code_dim)
        check_codebook_size(codebook_size, self.code_dim)
        check_positive(temperature=temperature, entropy_temperature=entropy_temperature)
        check_entropy_images(entropy_images)
        self.vocabulary, self.entropy_images = (codebook_size,), entropy_images
        self.temperature, self.entropy_temperature, self.unit_length = temperature, entropy_temperature, unit_length
        if entropy_temperature is not None:
            self.loss_names = (*IBQ.loss_names, "entropy")
        self.codebook = nn.Parameter(codebook_start(init, codebook_size=codebook_size, width=self.code_dim))

    def effective_codebook(self) -> Tensor:
        codebook = self.codebook.float()
        return F.normalize(codebook, dim=-1) if self.unit_length else codebook

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        z = F.normalize(z_BND, dim=-1) if self.unit_length else z_BND
        codebook = self.effective_codebook()
        codes_ND, indices_N = choose_code(z.flatten(0, 1), codebook, codebook, temperature=self.temperature)
        codes, indices = codes_ND.view(z.shape), indices_N.view(*z.shape[:2], 1)
        if not self.training:
            return StreamQuantized(codes, indices)

        hard = F.embedding(indices[..., 0], codebook)
        losses = {
            "commit": F.mse_loss(codes, z) + F.mse_loss(z, hard.detach()),  # the first has no stop-gradient at all
            "codebook": F.mse_loss(hard, z.detach()),
        }
        stats = {}
        if self.entropy_temperature is not None:
            temperature = self.entropy_temperature

            def of_tokens(z_ND: Tensor, joined: bool) -> tuple[Tensor, Tensor]:
                return dot_entropies(z_ND, codebook, temperature, joined=joined)

            per_token, of_mean = grouped_entropies(of_tokens, z, self.entropy_images)
            losses["entropy"] = per_token - of_mean
            stats = {"entropy_per_token": per_token.detach(), "entropy_of_mean": of_mean.detach()}
        return StreamQuantized(codes, indices, losses, stats)

    def lookup(self, indices_BNK: Tensor) -> Tensor:
        return F.embedding(indices_BNK[..., 0], self.effective_codebook())
