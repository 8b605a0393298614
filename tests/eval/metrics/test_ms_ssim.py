"""Against the definition written out in numpy, and torchmetrics, whose borders differ."""

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from imtok.eval.metrics import MsSsim
from imtok.eval.metrics.ms_ssim import EXPONENTS, ms_ssim_per_image


def pair(size: int = 200, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    smooth = torch.rand(count, 3, 9, 9, generator=generator)
    a = torch.nn.functional.interpolate(smooth, (size, size - 7), mode="bilinear") * 255
    b = a + torch.randn(a.shape, generator=generator) * torch.tensor([5.0, 50.0])[:count, None, None, None]
    return a.round().to(torch.uint8), b.round().clamp(0, 255).to(torch.uint8)


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """One channel, whole windows only (Wang, Simoncelli and Bovik 2003)."""
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps) / taps.sum() ** 2
    value = 1.0
    for scale, exponent in enumerate(EXPONENTS):
        if scale:
            x, y = (
                z[: len(z) // 2 * 2, : z.shape[1] // 2 * 2].reshape(len(z) // 2, 2, -1, 2).mean((1, 3)) for z in (x, y)
            )
        mean_x, mean_y, xx, yy, xy = (convolve2d(z, window, mode="valid") for z in (x, y, x * x, y * y, x * y))
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        term = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)
        if scale == 4:
            term = term * (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        value *= max(term.mean(), 0) ** exponent
    return value


def test_it_is_the_definition() -> None:
    a, b = pair()
    expected = [
        np.mean([by_definition(x.double().numpy(), y.double().numpy()) for x, y in zip(p, q, strict=True)])
        for p, q in zip(a, b, strict=True)
    ]
    assert ms_ssim_per_image(a, b).tolist() == pytest.approx(expected, abs=2e-5)


def test_it_is_near_torchmetrics() -> None:
    a, b = pair()
    theirs = multiscale_structural_similarity_index_measure(b.float(), a.float(), data_range=255.0, reduction="none")
    assert ms_ssim_per_image(a, b).tolist() == pytest.approx(theirs.tolist(), abs=0.02)


def test_identical_images_and_small_ones() -> None:
    a, _ = pair()
    metric = MsSsim()
    metric.update(a, a)
    assert float(metric.compute()) == pytest.approx(1, abs=1e-5)
    assert "176 pixels" in metric.start((175, 300), ()) and metric.start((176, 300), ()) is None
