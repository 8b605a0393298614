"""Structural similarity (Wang et al. 2004), per image, mean over RGB, border cropped as scikit-image does.

gaussian11: sigma 1.5, 11 taps, biased covariance. uniform7: 7 taps, sample covariance (the scikit-image default).
The windows are separable, so both directions are one banded matrix product each.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...common.errors import UserError
from .base import MeanOverImages, Quantity

WINDOWS = ("gaussian11", "uniform7")


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


def ssim_maps(a: Tensor, b: Tensor, *, kind: str, data_range: float) -> tuple[Tensor, Tensor]:
    """[B, C, H, W] twice, 0 to 255: the luminance term, and that of contrast and structure, at every whole window."""
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
    return luminance, (2 * cov + c2) / (var_x + var_y + c2)


def ssim_per_image(a: Tensor, b: Tensor, *, kind: str = "gaussian11", data_range: float = 255.0) -> Tensor:
    """uint8-valued [B, C, H, W] twice to [B]."""
    luminance, structure = ssim_maps(a, b, kind=kind, data_range=data_range)
    return (luminance * structure).mean((-3, -2, -1))


class Ssim(MeanOverImages):
    """Mean over images."""

    higher_is_better = True
    quantities = {"ssim": Quantity("SSIM", better="higher")}
    group = "Pixels"
    protocol_fields = {"kind": "ssim_window", "data_range": "ssim_data_range"}

    def __init__(self, *, kind: str = "gaussian11", data_range: float = 255.0, **options: Any) -> None:
        super().__init__(**options)
        if kind not in WINDOWS:
            raise ValueError(f"kind={kind}: one of {', '.join(WINDOWS)}")
        self.kind, self.data_range = kind, data_range

    def per_image(self, reference: Tensor, reconstruction: Tensor) -> Tensor:
        return ssim_per_image(reference, reconstruction, kind=self.kind, data_range=self.data_range)

    def measure(self) -> dict[str, Any]:
        return {"ssim": {"mean": super().measure()["ssim"]}}

    def warnings(self, entries: Mapping[str, Any]) -> list[str]:
        if self.data_range == 255:
            return []
        return ["this SSIM's data range is not that of the pixels: inflated, compare it with nothing else"]

    def words(self) -> list[tuple[str, str]]:
        shape = (
            "Gaussian 11, sigma 1.5, biased covariance" if self.kind == "gaussian11" else "uniform 7, sample covariance"
        )
        return [("SSIM", f"{shape}, RGB channel mean, data range {self.data_range:g}, border cropped")]
