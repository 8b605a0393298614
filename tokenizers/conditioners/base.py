"""Base class of conditioners."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from ...common.caption_numbers import CaptionNumbers


class Conditioner(nn.Module, ABC):
    """Captions to the tensor [B, T, D] that a decoder reads in addition to codes."""

    dim: int  # D, the decoder's condition_dim
    length: int  # T, tokens of one caption
    caption_numbers: CaptionNumbers | None = None  # of one that takes these numbers in the place of captions as well

    @abstractmethod
    def forward(self, captions: Sequence[str]) -> Tensor: ...

    def load(self) -> None:
        """What is only read when it is needed; a training asks for it before the first batch."""
