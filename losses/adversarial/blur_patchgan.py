"""MaskBit's PatchGAN with blurred downsampling (arXiv:2409.16211); Open-MAGVIT2 and TiTok use it too."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BINOMIAL = {3: (1.0, 2.0, 1.0), 4: (1.0, 3.0, 3.0, 1.0), 5: (1.0, 4.0, 6.0, 4.0, 1.0)}


class BlurPatchGAN(nn.Module):
    """Images [B, C, H, W] to logits [B, 1, H / 2^stages, W / 2^stages].

    blur: width of the binomial filter of every halving, 3 to 5; null: a plain 2x2 mean. Group norm, so that batches of
    any size are fine.
    largest_map: side to which the last features are max-pooled, smaller ones repeated, as in TiTok (16). null: never.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        ndf: int = 128,
        stages: int = 3,
        blur: int | None = 4,
        largest_map: int | None = None,
    ) -> None:
        super().__init__()
        if stages < 1:
            raise ValueError(f"stages={stages}: give 1 or more")
        if blur is not None and blur not in BINOMIAL:
            raise ValueError(f"blur={blur}: give 3, 4 or 5, or null for a plain mean")
        if ndf % 32:
            raise ValueError(f"ndf={ndf}: give a multiple of 32 (group norm)")
        if largest_map is not None and largest_map < 1:
            raise ValueError(f"largest_map={largest_map}: give 1 or more, or null")
        self.stages, self.largest_map = stages, largest_map
        self.stem = nn.Conv2d(in_channels, ndf, 5, padding=2)
        self.blocks = nn.Sequential()
        width = ndf
        for stage in range(stages):
            wider = ndf * 2**stage  # the first stage keeps its width
            self.blocks.append(Stage(width=width, wider=wider, blur=blur))
            width = wider
        self.mix = nn.Conv2d(width, width, 1)
        self.head = nn.Conv2d(width, 1, 5, padding=2)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(F.leaky_relu(self.stem(images), 0.1))
        if self.largest_map is not None:
            x = F.adaptive_max_pool2d(x, self.largest_map)
        return self.head(F.leaky_relu(self.mix(x), 0.1))

    @property
    def smallest_image(self) -> int:
        return 2**self.stages


class Stage(nn.Module):
    def __init__(self, *, width: int, wider: int, blur: int | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, wider, 3, padding=1)
        self.halve = nn.AvgPool2d(2) if blur is None else BlurHalve(taps=blur)
        self.norm = nn.GroupNorm(32, wider)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.norm(self.halve(self.conv(x))), 0.1)


class BlurHalve(nn.Module):
    """A binomial filter, then every second pixel: what aliases is gone before (Zhang, arXiv:1904.11486)."""

    kernel: Tensor

    def __init__(self, *, taps: int) -> None:
        super().__init__()
        line = torch.tensor(BINOMIAL[taps])
        square = line[:, None] * line[None, :]
        self.register_buffer("kernel", (square / square.sum())[None, None], persistent=False)
        # As much padding as half the size needs, the odd pixel on the right.
        self.before, self.after = (taps - 2) // 2, taps - 2 - (taps - 2) // 2

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (self.before, self.after, self.before, self.after))
        return F.conv2d(padded, self.kernel.to(x.dtype).expand(x.shape[1], 1, -1, -1), stride=2, groups=x.shape[1])
