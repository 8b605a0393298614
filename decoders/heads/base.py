"""What a head promises."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ...common.types import Latents


class Head(nn.Module, ABC):
    """Codes to a tensor of its own, in `TokenizerOutput.heads` under the name of its YAML node."""

    dim: int | dict[str, int]  # width it reads, given by quantizer.out_dim
    any_length: bool = False  # True where codes whose tail is cut off do too

    @abstractmethod
    def forward(self, codes: Latents) -> Tensor: ...
