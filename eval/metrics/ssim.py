"""Structural similarity (Wang et al. 2004), per image, mean over RGB, border cropped as scikit-image does.

gaussian11: sigma 1.5, 11 taps, biased covariance. uniform7: 7 taps, sample covariance (the scikit-image default).
The windows are separable, so both directions are one banded matrix product each.
"""

import torch
from torch import Tensor

from ...common.errors import UserError


def window(kind: str) -> Tensor:
    if kind == "uniform7":
        return torch.full((7,), 1 / 7, dtype=torch.float64)
    taps = torch.arange(-5, 6, dtype=torch.float64)
    weights = torch.exp(-0.5 * (taps / 1.5) ** 2)
    return weights / weights.sum()


def _bands(taps: Tensor, size: int, like: Tensor) -> Tensor:
    """[size - taps + 1, size]: row i holds the window at offset i, so only whole windows are read."""
    rows = size - len(taps) + 1
    matrix = torch.zeros(rows, size, dtype=torch.float64)
    for offset, weight in enumerate(taps.tolist()):
        matrix.diagonal(offset)[:rows] = weight
    return matrix.to(like)


def ssim_per_image(a: Tensor, b: Tensor, *, kind: str = "gaussian11", data_range: float = 255.0) -> Tensor:
    """uint8-valued [B, C, H, W] twice to [B]."""
    taps = window(kind)
    height, width = a.shape[-2:]
    if min(height, width) < len(taps):
        raise UserError(
            f"data.image_size={[height, width]}: SSIM needs {len(taps)} pixels; take ssim out of protocol.metrics"
        )
    # Covariances do not see a shift; around 0 their float32 cancellation loses least.
    x, y = a.float() - 128, b.float() - 128
    maps = torch.stack([x, y, x * x, y * y, x * y])
    smooth = _bands(taps, height, maps) @ maps @ _bands(taps, width, maps).mT
    mean_x, mean_y, xx, yy, xy = smooth
    samples = len(taps) ** 2
    unbias = samples / (samples - 1) if kind == "uniform7" else 1.0
    var_x, var_y, cov = ((m - p) * unbias for m, p in ((xx, mean_x**2), (yy, mean_y**2), (xy, mean_x * mean_y)))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y = mean_x + 128, mean_y + 128
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean((-3, -2, -1))


class Ssim:
    def __init__(self, *, kind: str = "gaussian11", data_range: float = 255.0) -> None:
        self.kind, self.data_range = kind, data_range
        self.sum, self.count = 0.0, 0

    def update(self, reference: Tensor, reconstruction: Tensor) -> None:
        values = ssim_per_image(reference, reconstruction, kind=self.kind, data_range=self.data_range)
        self.sum = self.sum + values.double().sum()
        self.count += len(values)

    def merge(self, other: "Ssim") -> None:
        self.sum, self.count = float(self.sum) + float(other.sum), self.count + other.count

    def result(self) -> dict:
        return {"ssim": {"mean": float(self.sum) / self.count}}
