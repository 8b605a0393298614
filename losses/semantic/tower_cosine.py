"""Cosine loss between codes and the tokenizer's own frozen tower, no second copy of it as a teacher (DualViTok)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.types import TokenizerOutput
from ...common.weights import Weights
from ..base import LossTerm, mean_over_samples
from ..source import Reading, as_stream


class TowerCosine(LossTerm):
    """Mean over tokens of 1 - cos(what is read, sg(target)).

    reads: heads.NAME, codes.STREAM, latents.STREAM, features.MODULE_PATH. target: path of the module whose output it is
    compared with, of the same grid and width.
    """

    saved_with_export = True
    compare = ("tokens",)
    origin: Weights | None = None  # of the tower, which is in every export: known only where training starts

    def __init__(self, *, reads: str = "heads.semantic", target: str = "encoder.semantic.tower") -> None:
        super().__init__()
        self.reading = Reading.parse(reads)
        self.target = target
        self.taps = {**self.reading.taps, target: target}
        self.compared_with = target

    def misfit(self, tokenizer: nn.Module) -> str | None:
        towers = [m for name, m in tokenizer.named_modules() if name == self.target]  # the tap says where there is none
        if any(getattr(tower, "frozen_from_nothing", False) for tower in towers):
            self.origin = Weights(source=None, random=True)
        return self.reading.misfit(tokenizer) or super().misfit(tokenizer)

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        return mean_over_samples(1 - self._cosine(output), output.quantized.sample_mask)

    @torch.no_grad()
    def cosine_to_teacher(self, images: Tensor, output: TokenizerOutput) -> Tensor:
        """[B], for evaluation, as FeatureTerm's; the images were encoded when `output` was made."""
        return self._cosine(output)

    def _cosine(self, output: TokenizerOutput) -> Tensor:
        """[B]: mean over tokens."""
        ours_BND, theirs_BND = self.reading.of(output).x_BND, as_stream(output.features[self.target].detach()).x_BND
        return F.cosine_similarity(ours_BND.float(), theirs_BND.float(), dim=-1).mean(dim=1)
