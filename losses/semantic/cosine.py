"""Cosine losses to a teacher's features, per token."""

import torch.nn.functional as F
from torch import Tensor

from ..teacher_term import FeatureTerm, mean_over_tokens


class SemanticCosine(FeatureTerm):
    """mean over tokens of 1 - cos(ours, teacher's) (TokenFlow, DualViTok, SEED, RecTok)."""

    def distance(self, ours_BND: Tensor, theirs_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        return mean_over_tokens(1 - F.cosine_similarity(ours_BND, theirs_BND, dim=-1), mask_BN)


class SemanticMSECosine(FeatureTerm):
    """Squared error minus cosine (DualToken: on tokens and on the pooled vector).

    mean over tokens of mean_d (ours - teacher's)^2 - cos(ours, teacher's); at its best -1, or -2 of both.
    """

    def distance(self, ours_BND: Tensor, theirs_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        squared_BN = (ours_BND - theirs_BND).square().mean(dim=-1)
        return mean_over_tokens(squared_BN - F.cosine_similarity(ours_BND, theirs_BND, dim=-1), mask_BN)
