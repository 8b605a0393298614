"""ViTamin's convolutions (Chen et al., arXiv 2404.02132) and their mirror in UniTok's decoder, in timm's names."""

import torch.nn.functional as F
from timm.layers import make_divisible
from torch import Tensor, nn

from .transformer import Block, GatedMlp


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a grid."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return super().forward(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ShrinkingSkip(nn.Module):
    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
        same = channels_in == channels_out
        self.expand = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(self.pool(x))


class Doubling(nn.Module):
    """Nearest neighbour times two, then a 3x3 convolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class MBConv(nn.Module):
    """Norm, widen four times, depthwise 3x3, narrow. change: `half` or `double` the side, None keeps it."""

    def __init__(self, channels_in: int, channels_out: int, *, change: str | None = None) -> None:
        super().__init__()
        middle = make_divisible(channels_out * 4)
        if change == "half":
            self.shortcut: nn.Module = ShrinkingSkip(channels_in, channels_out)
        elif change == "double":
            self.shortcut = Doubling(channels_in, channels_out)
        else:
            same = channels_in == channels_out
            self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)
        self.pre_norm = ChannelNorm(channels_in)
        self.conv1_1x1 = nn.Conv2d(channels_in, middle, 1)
        self.up = Doubling(middle, middle) if change == "double" else nn.Identity()
        stride = 2 if change == "half" else 1
        self.conv2_kxk = nn.Conv2d(middle, middle, 3, stride=stride, padding=1, groups=middle)
        self.conv3_1x1 = nn.Conv2d(middle, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(F.gelu(self.conv1_1x1(self.pre_norm(x))))
        return self.conv3_1x1(F.gelu(self.conv2_kxk(h))) + self.shortcut(x)


class Stem(nn.Module):
    """Two 3x3 convolutions; the first halves the side on the way in, or doubles it on the way out."""

    def __init__(self, channels_in: int, channels_out: int, *, outward: bool = False) -> None:
        super().__init__()
        middle = channels_in if outward else channels_out
        self.conv1 = Doubling(channels_in, middle) if outward else nn.Conv2d(channels_in, middle, 3, 2, padding=1)
        self.norm1 = ChannelNorm(middle)
        self.conv2 = nn.Conv2d(middle, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.gelu(self.norm1(self.conv1(x))))


class ConvTrunk(nn.Module):
    """Stem, stages, and the convolution into the transformer's width: a sixteenth of the side with two stages."""

    def __init__(self, *, widths: tuple[int, ...], depths: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.stem = Stem(3, widths[0])
        self.stages = nn.ModuleList()
        before = widths[0]
        for channels, depth in zip(widths, depths, strict=True):
            first = MBConv(before, channels, change="half")
            self.stages.append(nn.Sequential(first, *(MBConv(channels, channels) for _ in range(depth - 1))))
            before = channels
        self.pool = nn.ModuleDict({"norm": ChannelNorm(before), "proj": nn.Conv2d(before, width, 3, 2, padding=1)})

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return self.pool["proj"](self.pool["norm"](x))


def init_convolutions(module: nn.Module, *, gain: float) -> None:
    """Weights from a normal by Glorot and Bengio's rule (xavier), times `gain`; biases zero."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.xavier_normal_(part.weight, gain=gain)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def vitamin_blocks(
    *, width: int, depth: int, num_heads: int, mlp_ratio: float, activation: str, drop_path: float
) -> nn.Sequential:
    """The transformer of the tower and of UniTok's decoder."""

    def block(number: int) -> Block:
        mlp = GatedMlp(width=width, hidden=int(width * mlp_ratio), activation=activation)
        return Block(width=width, num_heads=num_heads, mlp=mlp, drop_path=drop_path * number / max(depth - 1, 1))

    return nn.Sequential(*map(block, range(depth)))
