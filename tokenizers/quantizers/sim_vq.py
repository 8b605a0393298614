"""SimVQ (Zhu et al., arXiv 2411.02038): a frozen random codebook seen through one learned linear map.

Ours rather than vector-quantize-pytorch's, which holds the [tokens, codes] distances; the numbers are the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .shared.codebook import CodebookQuantizer
from .shared.codebook_start import CodebookStart, codebook_start


class SimVQ(CodebookQuantizer):
    """Codes are W c with c frozen, so that every code moves whenever W does.

    bias: a biased map (TA-Tok); SimVQ and DualViTok have none.
    init: what the frozen codes are, see codebook_start.py.
    """

    joined_batch_equal = True

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int = 1024,
        code_dim: int | None = None,
        bias: bool = False,
        unit_length: bool = False,
        rotation_trick: bool = False,
        init: CodebookStart = "normal_width",
        entropy_temperature: float | None = None,
    ) -> None:
        super().__init__(
            dim=dim,
            codebook_size=codebook_size,
            code_dim=code_dim,
            unit_length=unit_length,
            rotation_trick=rotation_trick,
            entropy_temperature=entropy_temperature,
        )
        self.frozen = nn.Buffer(codebook_start(init, codebook_size=codebook_size, width=self.code_dim))
        self.transform = nn.Linear(self.code_dim, self.code_dim, bias=bias)

    def effective_codebook(self) -> Tensor:
        # Only the entropy sends gradients through all codes; the losses go through the chosen ones (codes_of).
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.entropy_temperature is not None):
            return self._through(self.frozen)

    def codes_of(self, indices: Tensor, codebook_KD: Tensor) -> Tensor:
        return self._through(F.embedding(indices, self.frozen)) if self.training else F.embedding(indices, codebook_KD)

    def _through(self, codes: Tensor) -> Tensor:
        codes = self.transform(codes)
        return F.normalize(codes, dim=-1) if self.unit_length else codes
