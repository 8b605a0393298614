"""What a head promises."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from ...tokenizers.types import Latents


class Head(nn.Module, ABC):
    """Codes to a tensor of its own, in `TokenizerOutput.heads` under the name of its YAML node."""

    dim: int | dict[str, int]  # width it reads, given by quantizer.out_dim

    @abstractmethod
    def forward(self, codes: Latents) -> Tensor: ...


def stream_width(dim: int | Mapping[str, int], stream: str) -> int:
    """Of one stream of the codes."""
    widths = {"main": dim} if isinstance(dim, int) else dim
    if stream not in widths:
        raise ValueError(f"stream={stream}: the codes have {', '.join(sorted(widths))}")
    return widths[stream]
