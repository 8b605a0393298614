"""The convolutional encoder of ILLUME+'s pixel side (arXiv 2504.01934): VQGAN's, with shortcuts around resampling."""

from collections.abc import Sequence

from torch import Tensor, nn

from ...layers.movq import UnshuffleDown
from .cnn import CNNEncoder


class CNNMoVQEncoder(CNNEncoder):
    """Like CNNEncoder; halving the side keeps what the convolution adds to, and so does the way to z_channels.

    shortcuts: false: it does not, and this is CNNEncoder (MoVQ's own).
    """

    def __init__(
        self,
        *,
        dim: int = 32,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks_per_level: int = 2,
        attention_levels: Sequence[int] = (-1,),
        z_channels: int = 32,
        dropout: float = 0.0,
        in_channels: int = 3,
        shortcuts: bool = True,
    ) -> None:
        super().__init__(
            dim=dim,
            channels=channels,
            channel_multipliers=channel_multipliers,
            blocks_per_level=blocks_per_level,
            attention_levels=attention_levels,
            z_channels=z_channels,
            dropout=dropout,
            in_channels=in_channels,
        )
        self.shortcuts = shortcuts
        if not shortcuts:
            return
        widths = [channels * m for m in channel_multipliers]
        if widths[-1] % z_channels:
            raise ValueError(
                f"z_channels={z_channels}: the last level's {widths[-1]} channels do not divide by it; take a divisor "
                "or shortcuts=false"
            )
        for level, width in zip(self.levels[:-1], widths, strict=False):
            assert isinstance(level, nn.Sequential)
            level[-1] = UnshuffleDown(channels=width)

    def to_latent(self, x_BChw: Tensor) -> Tensor:
        if not self.shortcuts:
            return super().to_latent(x_BChw)
        groups = x_BChw.unflatten(1, (self.conv_out.out_channels, -1))
        return self.conv_out(x_BChw) + groups.mean(dim=2)
