"""Two modules of the tokenizer should say the same: the second is the target and learns nothing from it."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..common.types import TokenizerOutput
from .base import LossTerm


class FeatureMatch(LossTerm):
    """Mean squared error of what two modules, named by their paths, give: of one shape.

    GigaTok (arXiv 2504.08736) so brings its Q-Formers' map near the map that its convolutions saw, for a start.
    """

    def __init__(self, *, feature: str, target: str) -> None:
        super().__init__()
        self.feature, self.target = feature, target
        self.taps = {feature: feature, target: target}

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        feature, target = output.features[self.feature], output.features[self.target].detach()
        assert feature.shape == target.shape, f"{self.feature} {feature.shape} is no match for {target.shape}"
        return F.mse_loss(feature.float(), target.float())

    def is_available(self, output: TokenizerOutput) -> bool:
        return self.feature in output.features and self.target in output.features
