"""Against scikit-image and closed forms."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from imtok.eval.metrics.l1 import PixelError
from imtok.eval.metrics.psnr import Psnr


def noisy_pair(count: int = 5, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 256, (count, 3, size, size), generator=generator)
    b = (a + torch.randint(-30, 31, a.shape, generator=generator)).clamp(0, 255)
    return a.to(torch.uint8), b.to(torch.uint8)


def test_per_image_values_are_those_of_scikit_image() -> None:
    a, b = noisy_pair()
    values = Psnr().update(a, b)
    expected = [peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=255) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_an_offset_of_one_level_is_48_13_db() -> None:
    a = torch.full((2, 3, 300, 300), 100, dtype=torch.uint8)
    assert Psnr().update(a, a + 1) == pytest.approx(10 * np.log10(255**2), abs=1e-9)


def test_identical_images_count_as_the_cap_and_are_counted() -> None:
    a, b = noisy_pair(2)
    meter = Psnr(cap=100)
    both = meter.update(torch.cat([a, a[:1]]), torch.cat([b, a[:1]]))
    result = meter.result()["psnr"]
    assert both[2] == 100 and result["capped"] == 1
    assert result["mean"] == pytest.approx(both.mean())


def test_the_mean_is_over_images_not_over_pooled_errors_nor_batches() -> None:
    a, b = noisy_pair(5)
    b[:2] = a[:2]
    b[:2, :, 0, 0] ^= 1
    whole, batched = Psnr(), Psnr()
    whole.update(a, b)
    for part in (slice(0, 4), slice(4, 5)):
        batched.update(a[part], b[part])
    expected = np.mean(
        [peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=255) for x, y in zip(a, b, strict=True)]
    )
    assert whole.result()["psnr"]["mean"] == pytest.approx(min(expected, 100), abs=1e-9)
    assert batched.result()["psnr"] == whole.result()["psnr"]


def test_mean_colour_is_the_constant_picture_of_the_rounded_mean() -> None:
    a, _ = noisy_pair(3)
    meter = Psnr()
    meter.update(a, a)
    flat = [np.broadcast_to(x.numpy().mean((1, 2), keepdims=True).round(), x.shape).astype(np.uint8) for x in a]
    expected = [peak_signal_noise_ratio(x.numpy(), y, data_range=255) for x, y in zip(a, flat, strict=True)]
    assert meter.result()["psnr_mean_colour"] == pytest.approx(np.mean(expected), rel=1e-9)


def test_l1_is_the_mean_absolute_difference_of_the_full_range() -> None:
    a, b = noisy_pair()
    meter = PixelError()
    meter.update(a[:2], b[:2])
    meter.update(a[2:], b[2:])
    expected = np.abs(a.numpy().astype(float) - b.numpy()).mean() / 255
    assert meter.result()["l1"] == pytest.approx(expected, rel=1e-12)
