"""The smoothing convolutions of multi-scale residual codes (VAR, arXiv 2404.02905, algorithm 1)."""

import numpy as np
from torch import Tensor, nn

from .limits import check_share

MAX_CONVS = 64


class Phi(nn.Module):
    """h <- (1 - ratio) h + ratio conv(h), by that of `convs` 3x3 convolutions whose place on [0, 1] is nearest.

    VAR puts four at 1/12 ... 11/12, and any other number in the middle of equal stretches.
    """

    def __init__(self, *, width: int, convs: int, ratio: float, scales: int) -> None:
        super().__init__()
        if not 0 <= convs <= MAX_CONVS:
            raise ValueError(f"phi_convs={convs}: from 0 (none) to {MAX_CONVS}")
        check_share(phi_ratio=ratio)
        self.ratio, self.scales = ratio, scales
        self.convs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(convs if ratio else 0))

    def which(self, scale: int) -> int:
        count = len(self.convs)
        edge = 1 / 3 / count if count == 4 else 1 / 2 / count
        places = np.linspace(edge, 1 - edge, count)
        place = scale / (self.scales - 1) if self.scales > 1 else 0.0
        return int(np.abs(places - place).argmin())

    def forward(self, codes_BDhw: Tensor, scale: int) -> Tensor:
        if not self.convs:
            return codes_BDhw
        return codes_BDhw * (1 - self.ratio) + self.convs[self.which(scale)](codes_BDhw) * self.ratio
