"""The codebook of running means as vector-quantize-pytorch trains it: a wrapper around its VectorQuantize.

EmaVQ exists as well, for three reasons: the library's search makes whole [tokens, codes] tables
(nearest.py never holds one), it sums through one-hot tables of that size, and with several processes its revival of
dead codes draws on each process for itself before it shares. A test holds the two against each other.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize
from vector_quantize_pytorch.vector_quantize_pytorch import sample_vectors_distributed

from ...common.distributed import all_finite, process_count
from .base import StreamQuantized, TokenQuantizer
from .shared.codebook import check_codebook_size
from .shared.limits import check_below_one


class LibraryVQ(TokenQuantizer):
    """Everything but the projections is the library's; only the raw loss `commit` is left.

    unit_length: cosine similarity; codes are renormalised after every update.
    revive_below_tokens: codes whose running count of tokens per update falls below this are put on random vectors of
        the batch; 0 is off.
    kmeans_init: the first batch's clusters instead of random codes.
    """

    loss_names: tuple[str, ...] = ("commit",)

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int = 1024,
        code_dim: int | None = None,
        unit_length: bool = False,
        rotation_trick: bool = False,
        decay: float = 0.99,
        revive_below_tokens: float = 0.0,
        kmeans_init: bool = False,
    ) -> None:
        super().__init__(dim=dim, code_dim=code_dim)
        check_codebook_size(codebook_size, self.code_dim)
        check_below_one(decay=decay)
        if revive_below_tokens < 0:
            raise ValueError(f"revive_below_tokens={revive_below_tokens}: a number of tokens per update, 0 for never")
        self.codebook_size = codebook_size
        self.vocabulary = (codebook_size,)
        self.vq = VectorQuantize(
            dim=self.code_dim,
            codebook_size=codebook_size,
            decay=decay,
            use_cosine_sim=unit_length,
            rotation_trick=rotation_trick,
            commitment_weight=1.0,  # raw; loss.commit.weight is the beta
            threshold_ema_dead_code=revive_below_tokens,
            kmeans_init=kmeans_init,
            sync_codebook=process_count() > 1,
        )

    @property
    def codebook(self) -> Tensor:
        return self.vq.codebook

    def micro_batch_misfit(self) -> str | None:
        return ": the library's codebook moves in every forward; ours, tokenizer/quantizer=ema_vq"

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        self._join_processes()
        learns = self.training and torch.is_grad_enabled() and bool(all_finite(z_BND.detach()))
        codes, indices_BN, commit = self.vq(z_BND, freeze_codebook=not learns)
        if not self.training:
            return StreamQuantized(self.lookup(indices_BN[..., None]), indices_BN[..., None])
        return StreamQuantized(codes, indices_BN[..., None], {"commit": commit.sum()})

    def _join_processes(self) -> None:
        """The library looks for other processes when it is built; the Trainer starts them later."""
        book = self.vq._codebook
        if process_count() > 1 and not book.use_ddp:
            book.use_ddp = True
            book.all_reduce_fn = book.kmeans_all_reduce_fn = dist.all_reduce
            book.sample_fn = book.replace_sample_fn = sample_vectors_distributed

    def lookup(self, indices_BNK: Tensor) -> Tensor:
        return F.embedding(indices_BNK[..., 0], self.codebook)
