"""Squared error minus cosine to a teacher's features (DualToken: on tokens and on the pooled vector)."""

import torch.nn.functional as F
from torch import Tensor

from ..teacher_term import FeatureTerm, mean_over_tokens


class SemanticMSECosine(FeatureTerm):
    """mean over tokens of mean_d (ours - teacher's)^2 - cos(ours, teacher's); at its best -1, or -2 of both."""

    def distance(self, ours_BND: Tensor, theirs_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        squared_BN = (ours_BND - theirs_BND).square().mean(dim=-1)
        return mean_over_tokens(squared_BN - F.cosine_similarity(ours_BND, theirs_BND, dim=-1), mask_BN)
