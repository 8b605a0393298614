"""Vector quantization whose codebook follows running means of its vectors, through vector-quantize-pytorch."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from .base import SingleStreamQuantizer, StreamQuantized
from .finite import finite_on_all_processes
from .nearest import nearest_code


class EmaVQ(SingleStreamQuantizer):
    """Codes are running means (VQ-VAE-2, arXiv 1906.00446); only the raw loss `commit` is left.

    The library owns the codebook, its updates, k-means start, revival and the sums over processes; the search is ours
    (nearest.py says why).

    unit_length: cosine similarity; codes are renormalised after every update.
    revive_below: codes with a running count below this many tokens are put on random vectors of the batch; 0 is off.
    """

    loss_names: ClassVar[tuple[str, ...]] = ("commit",)

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int = 1024,
        code_dim: int | None = None,
        unit_length: bool = False,
        decay: float = 0.99,
        revive_below: float = 1.0,
        kmeans_init: bool = False,
    ) -> None:
        super().__init__(dim=dim, code_dim=code_dim)
        self.vocabulary = (codebook_size,)
        self.unit_length = unit_length
        self.vq = VectorQuantize(
            dim=self.code_dim,
            codebook_size=codebook_size,
            decay=decay,
            use_cosine_sim=unit_length,
            threshold_ema_dead_code=revive_below,
            kmeans_init=kmeans_init,
            rotation_trick=False,
        )

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        z = F.normalize(z_BND, dim=-1) if self.unit_length else z_BND
        learning = self.training and torch.is_grad_enabled() and finite_on_all_processes(z.detach())
        if learning:
            self.vq._codebook.init_embed_(z.detach().reshape(1, -1, self.code_dim))  # k-means, first batch only
        # A copy: the running means are about to be written over the vectors that the backward pass will read.
        codebook = self.vq.codebook.detach().clone() if learning else self.vq.codebook
        indices_BN = nearest_code(z.reshape(-1, self.code_dim), codebook).view(z.shape[:2])
        codes = F.embedding(indices_BN, codebook)
        if not self.training:
            return StreamQuantized(codes, indices_BN[..., None])
        if learning:
            self.vq.update_indices(z.detach(), indices_BN)
        losses = {"commit": F.mse_loss(z, codes)}
        return StreamQuantized(z + (codes - z).detach(), indices_BN[..., None], losses)

    def lookup(self, indices_BNK: Tensor) -> Tensor:
        return F.embedding(indices_BNK[..., 0], self.vq.codebook)
