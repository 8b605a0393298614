"""Vector quantization with a codebook trained by gradients (van den Oord et al., arXiv 1711.00937).

Ours rather than vector-quantize-pytorch's: its learnable codebook has one loss with one weight for both directions,
so neither beta nor the legacy order of VQGAN can be said, and it refuses unit-length codes (LlamaGen).
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.distributed import all_finite
from .shared.codebook import CodebookQuantizer
from .shared.codebook_start import CodebookStart, codebook_start
from .shared.limits import check_not_negative
from .shared.revival import Revival, clustering_reset


class VQ(CodebookQuantizer):
    """The codebook is a parameter; the loss `codebook` trains it.

    VQGAN's published models come from swapped ("legacy") weights: commit 1, codebook 0.25.

    revive_below: codes chosen fewer times than this share of an even spread (running mean) are put on random vectors
        of the batch; 0 turns it off.
    reset: `dead` does so; `clustering` moves every code towards its nearest vector instead, the further the less it
        is used (Clustering-VQ); published with usage_decay=0.99.
    usage_decay: of the running mean; with 0.9 and revive_below=0.03 a code is dead after 33 updates unchosen.
    usage_start: what that mean starts from, 1 the even spread; from 0, `clustering` puts codes on data at once.
    init: where the codes start, see codebook_start.py; null: uniform, of unit length where unit_length is set.
    """

    joined_batch_equal = True

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int = 1024,
        code_dim: int | None = None,
        unit_length: bool = False,
        rotation_trick: bool = False,
        revive_below: float = 0.0,
        reset: Literal["dead", "clustering"] = "dead",
        usage_decay: float = 0.9,
        usage_start: float = 1.0,
        init: CodebookStart | None = None,
        entropy_temperature: float | None = None,
        entropy_images: int | None = None,
    ) -> None:
        super().__init__(
            dim=dim,
            codebook_size=codebook_size,
            code_dim=code_dim,
            unit_length=unit_length,
            rotation_trick=rotation_trick,
            entropy_temperature=entropy_temperature,
            entropy_images=entropy_images,
        )
        if reset == "clustering" and revive_below > 0:
            raise ValueError(f"revive_below={revive_below}: reset=clustering moves every code; set revive_below to 0")
        check_not_negative(usage_start=usage_start)
        self.reset = reset
        self.revival = Revival(
            codebook_size=codebook_size,
            below=revive_below,
            decay=usage_decay,
            counts=reset == "clustering",
            start=usage_start,
        )
        init = init or ("uniform_unit" if unit_length else "uniform")
        self.codebook = nn.Parameter(codebook_start(init, codebook_size=codebook_size, width=self.code_dim))

        self.learns = self.revival.counts

    def effective_codebook(self) -> Tensor:
        codebook = self.codebook.float()
        if self.training and self.revival.counts:
            codebook = codebook.clone()  # `learn` writes over the parameter before the backward pass reads it
        return F.normalize(codebook, dim=-1) if self.unit_length else codebook

    @torch.no_grad()
    def learn(self, z_ND: Tensor, indices_N: Tensor) -> None:
        if self.reset == "clustering":
            finite = all_finite(z_ND)
            self.revival.count(indices_N, finite)
            moved = clustering_reset(self.codebook.float(), z_ND, self.revival.usage, self.revival.decay)
            self.codebook.copy_(torch.where(finite > 0, moved, self.codebook))
            return
        _, codes = self.revival.revived(self.codebook, z_ND, indices_N)
        self.codebook.copy_(codes)
