"""Codes that tell what the tokenizer's own frozen tower sees: no second copy of it as a teacher (DualViTok)."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..tokenizers.types import TokenizerOutput
from .base import LossTerm, mean_over_samples
from .reading import Reading


class TowerCosine(LossTerm):
    """Mean over tokens of 1 - cos(what is read, sg(target)).

    reads: heads.NAME, codes.STREAM, latents.STREAM, features.MODULE_PATH. target: path of the module whose output it is
    compared with, of the same grid and width.
    """

    def __init__(self, *, reads: str = "heads.semantic", target: str = "encoder.semantic.tower") -> None:
        super().__init__()
        self.reading = Reading.parse(reads)
        self.target = target
        self.taps = {**self.reading.taps, target: target}

    def misfit(self, tokenizer: nn.Module) -> str | None:
        return self.reading.misfit(tokenizer) or super().misfit(tokenizer)

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        ours_BND, theirs_BND = self.reading.of(output).x_BND.float(), output.features[self.target].detach().float()
        per_token_BN = 1 - F.cosine_similarity(ours_BND, theirs_BND, dim=-1)
        return mean_over_samples(per_token_BN.mean(dim=1), output.quantized.sample_mask)
