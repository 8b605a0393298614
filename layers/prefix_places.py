"""Initial positions of prefix tokens: from the whole image to ever smaller parts of it."""

from torch import Tensor

from .located_start import sincos_places
from .qformer import pyramid


def prefix_places(num_tokens: int, width: int) -> Tensor:
    """[num_tokens, width]: mean positions over the image, twice, then over halves, quarters ...

    Every prefix of 1, 2, 4 ... tokens but the second so covers the image once more, at twice as many positions.
    """
    if num_tokens & (num_tokens - 1):
        raise ValueError(f"num_tokens={num_tokens}: a located start needs a power of two")
    side = max(8, num_tokens)
    fine = sincos_places((side, side), width).T.unflatten(1, (side, side))
    return pyramid(fine[None], num_tokens)[0]
