"""One minus the cosine to a teacher's features, per token (TokenFlow, DualViTok, SEED, RecTok)."""

import torch.nn.functional as F
from torch import Tensor

from ..teacher_term import FeatureTerm, mean_over_tokens


class SemanticCosine(FeatureTerm):
    """mean over tokens of 1 - cos(ours, teacher's)."""

    def distance(self, ours_BND: Tensor, theirs_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        return mean_over_tokens(1 - F.cosine_similarity(ours_BND, theirs_BND, dim=-1), mask_BN)
