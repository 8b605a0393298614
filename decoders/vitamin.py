"""Mirror of the ViTamin tower: the decoder of UniTok (Ma et al., arXiv 2502.20321)."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from ..common.types import Latents
from ..layers.transformer import init_transformer
from ..layers.vitamin import Doubling, MBConv, Stem, init_convolutions, vitamin_blocks
from .base import Decoder


class ViTaminDecoder(Decoder):
    """Transformer, then convolutions that double the side four times.

    dim: width of the codes, which is the transformer's.
    conv_widths, conv_depths: as in the tower, from the pixels inwards; the stages run the other way.
    conv_gain: convolutions start by xavier's rule, so many times as large (UniTok: 0.5); null: as PyTorch starts them.
    """

    needs_grid = True
    last_layer_name = "stem.conv2.weight"

    def __init__(
        self,
        *,
        dim: int,
        depth: int = 31,
        num_heads: int = 16,
        mlp_ratio: float = 2.0,
        conv_widths: Sequence[int] = (160, 320),
        conv_depths: Sequence[int] = (2, 4),
        activation: str = "gelu_tanh",
        drop_path: float = 0.0,
        conv_gain: float | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.blocks = vitamin_blocks(
            width=dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            activation=activation,
            drop_path=drop_path,
        )
        init_transformer(self.blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        widths = list(reversed(conv_widths))
        self.widen = Doubling(dim, widths[0])
        self.stages = nn.Sequential()
        before = widths[0]
        for channels, count in zip(widths, reversed(conv_depths), strict=True):
            first = MBConv(before, channels, change="double")
            self.stages.append(nn.Sequential(first, *(MBConv(channels, channels) for _ in range(count - 1))))
            before = channels
        self.stem = Stem(before, 3, outward=True)
        if conv_gain is not None:
            if not conv_gain > 0:
                raise ValueError(f"conv_gain={conv_gain}: a number above 0, or null")
            init_convolutions(self, gain=conv_gain)

    def forward(self, codes: Latents) -> Tensor:
        stream = codes["main"]
        x = self.widen(replace(stream, x_BND=self.norm(self.blocks(stream.x_BND))).as_grid())
        return self.stem(self.stages(x))
