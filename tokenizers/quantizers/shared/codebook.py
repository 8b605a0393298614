"""What quantizers with one codebook share: search, losses, the gradient across, lookup."""

import os
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base import StreamQuantized, TokenQuantizer
from .entropy_groups import check_entropy_images, grouped_entropies
from .limits import check_positive
from .nearest import nearest_code
from .softmax_codes import distance_entropies
from .straight_through import rotate_to, straight_through

LARGEST_CODEBOOK_FLOATS = 2**32  # 16 GiB of fp32


def most_codebook_floats() -> int:
    """A codebook that trains is there four times: itself, its gradient and Adam's two moments."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):  # Windows
        return LARGEST_CODEBOOK_FLOATS
    return min(LARGEST_CODEBOOK_FLOATS, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 16)


def check_codebook_size(codebook_size: int, code_dim: int, *, name: str = "codebook_size") -> None:
    if codebook_size < 2:
        raise ValueError(f"{name}={codebook_size}: at least 2 codes are needed")
    if codebook_size * code_dim > most_codebook_floats():
        raise ValueError(
            f"{name}={codebook_size}: {codebook_size} codes of width {code_dim} take "
            f"{codebook_size * code_dim * 4 / 2**30:.0f} GiB, four times that while they train; use fewer, or binary "
            "codes (lfq, bsq), which store none"
        )


class CodebookQuantizer(TokenQuantizer):
    """Each vector becomes its nearest code.

    Losses, raw: `codebook` |sg(z) - e|^2 draws codes to vectors (only where gradients train the codebook), `commit`
    |z - sg(e)|^2 draws vectors to codes. The usual beta is loss.commit.weight.

    unit_length: compare and hand on unit vectors (LlamaGen, arXiv 2406.06525).
    rotation_trick: gradients are turned as vectors are turned into codes, instead of copied (arXiv 2410.06424).
    entropy_temperature: adds the raw loss `entropy`, H(code | token) - H(code), of the softmax over
        -distance / temperature.
    entropy_images: images whose tokens make one mean code of H(code); null: all images of all processes.
    """

    loss_names: tuple[str, ...] = ("codebook", "commit")
    learns: bool = False  # whether `learn` does anything

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int,
        code_dim: int | None = None,
        unit_length: bool = False,
        rotation_trick: bool = False,
        entropy_temperature: float | None = None,
        entropy_images: int | None = None,
    ) -> None:
        super().__init__(dim=dim, code_dim=code_dim)
        check_codebook_size(codebook_size, self.code_dim)
        check_positive(entropy_temperature=entropy_temperature)
        self.codebook_size = codebook_size
        self.vocabulary = (codebook_size,)
        self.unit_length = unit_length
        self.cross = rotate_to if rotation_trick else straight_through
        check_entropy_images(entropy_images)
        self.entropy_temperature, self.entropy_images = entropy_temperature, entropy_images
        if entropy_temperature is not None:
            self.loss_names = (*type(self).loss_names, "entropy")

    @abstractmethod
    def effective_codebook(self) -> Tensor:
        """[K, D], the vectors that are compared and handed on."""

    def assign(self, z_ND: Tensor, codebook_KD: Tensor) -> Tensor:
        """Index of each vector's code."""
        return nearest_code(z_ND, codebook_KD)

    def learn(self, z_ND: Tensor, indices_N: Tensor) -> None:
        """After the choice, once an update: running means, revival. z as it came, before unit length."""

    def codes_of(self, indices: Tensor, codebook_KD: Tensor) -> Tensor:
        return F.embedding(indices, codebook_KD)

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        z = F.normalize(z_BND, dim=-1) if self.unit_length else z_BND
        codebook = self.effective_codebook()
        indices_BN = self.assign(z.detach().flatten(0, 1), codebook.detach()).view(z.shape[:2])
        codes = self.codes_of(indices_BN, codebook)
        if not self.training:
            return StreamQuantized(codes, indices_BN[..., None])

        losses = {"commit": F.mse_loss(z, codes.detach())}
        if "codebook" in self.loss_names:
            losses["codebook"] = F.mse_loss(codes, z.detach())
        if self.entropy_temperature is not None:
            temperature = self.entropy_temperature

            def of_tokens(z_ND: Tensor, joined: bool) -> tuple[Tensor, Tensor]:
                return distance_entropies(z_ND, codebook, temperature, joined=joined)

            per_token, of_mean = grouped_entropies(of_tokens, z, self.entropy_images)
            losses["entropy"] = per_token - of_mean
        if self.learns and torch.is_grad_enabled():
            self.once_an_update(self.learn, z_BND.detach().flatten(0, 1), indices_BN.flatten())
        return StreamQuantized(self.cross(z, codes), indices_BN[..., None], losses)

    def lookup(self, indices_BNK: Tensor) -> Tensor:
        return F.embedding(indices_BNK[..., 0], self.effective_codebook())
