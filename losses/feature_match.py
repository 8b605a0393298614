"""Mean squared error between the outputs of two modules of the tokenizer; the second is the target."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..common.types import TokenizerOutput
from .base import LossTerm


class FeatureMatch(LossTerm):
    """feature, target: paths of the modules, whose outputs are of one shape.

    GigaTok (arXiv 2504.08736) warms up its Q-Formers so: their map comes near the map of its convolutions.
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
