"""No quantization: the continuous baseline of the same encoder and decoder."""

from torch import Tensor

from ...common.types import IndexSegment, Latents, Quantized, Shapes, Stream
from .base import SingleStreamQuantizer, StreamQuantized


class ContinuousBottleneck(SingleStreamQuantizer):
    """Codes without indices: an empty layout, no bits. `imtok quantize` can make one discrete afterwards."""

    vocabulary = ()

    def mean(self, x_BND: Tensor) -> Tensor:
        """[B, N, code_dim], what `project_out` reads in eval; x as the encoder gives it, in fp32."""
        return self.project_in(x_BND)

    def forward(self, latents: Latents) -> Quantized:
        quantized = super().forward(latents)
        quantized.indices = {}
        return quantized

    def index_layout(self, shapes: Shapes) -> tuple[IndexSegment, ...]:
        return ()

    def bits(self, shapes: Shapes) -> float:
        return 0.0

    def indices_to_codes(self, indices: dict[str, Tensor], shapes: Shapes) -> Latents:
        raise ValueError(
            f"tokenizer.quantizer: {type(self).__name__} is continuous and has no indices to decode; "
            "`imtok quantize` makes a discrete tokenizer of it"
        )


class Identity(ContinuousBottleneck):
    """Vectors pass as they are, through a narrower `code_dim` if one is set."""

    joined_batch_equal = True

    def __init__(self, *, dim: int, code_dim: int | None = None) -> None:
        super().__init__(dim=dim, code_dim=code_dim)

    def quantize_stream(self, stream: Stream) -> StreamQuantized:
        return StreamQuantized(stream.x_BND, stream.x_BND.new_empty(*stream.x_BND.shape[:2], 0))
