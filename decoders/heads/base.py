"""Base classes of heads."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from ...common.errors import did_you_mean
from ...common.types import Latents


class Head(nn.Module, ABC):
    """Codes to a tensor of its own, in `TokenizerOutput.heads` under the name of its YAML node."""

    dim: int | Mapping[str, int]  # width it reads, given by quantizer.out_dim
    any_length: bool = False  # True where it also takes codes whose tail is cut off

    @abstractmethod
    def forward(self, codes: Latents) -> Tensor: ...


class StreamHead(Head):
    """A head that reads one stream.

    stream: whose codes are read, `code_dim` wide; null is the only one there is.
    """

    def __init__(self, *, dim: int | Mapping[str, int], out_dim: int, stream: str | None) -> None:
        super().__init__()
        self.dim, self.out_dim = dim, out_dim
        self.stream, self.code_dim = width_of(dim, stream)


def width_of(dim: int | Mapping[str, int], stream: str | None) -> tuple[str, int]:
    """Name and width of a stream."""
    widths = {"main": dim} if isinstance(dim, int) else dict(dim)
    if stream is None and len(widths) > 1:
        raise ValueError(f"stream=null: the codes have {', '.join(widths)}; name one")
    name = stream or next(iter(widths))
    if name not in widths:
        raise ValueError(f"stream={name}: the codes have no such stream; {did_you_mean(name, widths)}")
    return name, widths[name]
