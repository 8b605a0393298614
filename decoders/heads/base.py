"""Base class of heads."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from ...common.types import Latents


class Head(nn.Module, ABC):
    """Codes to a tensor of its own, in `TokenizerOutput.heads` under the name of its YAML node."""

    dim: int | Mapping[str, int]  # width it reads, given by quantizer.out_dim
    any_length: bool = False  # True where it also takes codes whose tail is cut off

    @abstractmethod
    def forward(self, codes: Latents) -> Tensor: ...
