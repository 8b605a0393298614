"""Nearest code search that never holds the whole [tokens, codes] table."""

import torch
from torch import Tensor

from ....common.types import has_values

CPU_CHUNK_FLOATS = 2**18  # 1 MiB of scores: stays in a core's second-level cache
CUDA_CHUNK_FLOATS = 2**26


@torch.no_grad()
def nearest_code(z_ND: Tensor, codebook_KD: Tensor) -> Tensor:
    """Index of the code with the smallest Euclidean distance, [N] int64.

    argmin |z - e|^2 = argmax z.e - |e|^2 / 2, and the norm rides along as one more column of the matrix product. Our
    own because vector-quantize-pytorch writes and reads the score table about ten times: 344 ms against 39 ms for
    2048 tokens, K=16384, D=8 on one thread (docs/log.md), with the same indices.
    """
    assert z_ND.dtype == codebook_KD.dtype == torch.float32, "a nearest code decided in half precision is another code"
    half_norms_K1 = codebook_KD.square().sum(dim=1, keepdim=True) / 2
    augmented_codes = torch.cat([codebook_KD, -half_norms_K1], dim=1).T.contiguous()  # [D + 1, K]
    augmented_z = torch.cat([z_ND, z_ND.new_ones(len(z_ND), 1)], dim=1)
    # Tensors without data stand for a GPU's: `imtok plan` would take minutes for a large batch in small chunks.
    budget = CUDA_CHUNK_FLOATS if z_ND.is_cuda or not has_values(z_ND) else CPU_CHUNK_FLOATS
    rows = max(16, budget // codebook_KD.shape[0])
    indices = torch.empty(len(z_ND), dtype=torch.int64, device=z_ND.device)
    for start in range(0, len(z_ND), rows):
        # max is vectorised where argmax is not
        indices[start : start + rows] = (augmented_z[start : start + rows] @ augmented_codes).max(dim=1).indices
    return indices
