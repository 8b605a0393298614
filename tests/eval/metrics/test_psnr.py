"""Against scikit-image and closed forms."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from imtok.eval.metrics import L1, Psnr
from imtok.eval.metrics.psnr import histogram


def noisy_pair(count: int = 5, size: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 256, (count, 3, size, size), generator=generator)
    b = (a + torch.randint(-30, 31, a.shape, generator=generator)).clamp(0, 255)
    return a.to(torch.uint8), b.to(torch.uint8)


def values_of(metric: Psnr, a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    metric.update(a, b)
    return metric.last


def test_per_image_values_are_those_of_scikit_image() -> None:
    a, b = noisy_pair()
    values = values_of(Psnr(), a, b)
    expected = [peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=255) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_an_offset_of_one_level_is_48_13_db() -> None:
    a = torch.full((2, 3, 300, 300), 100, dtype=torch.uint8)
    assert values_of(Psnr(), a, a + 1) == pytest.approx(10 * np.log10(255**2), abs=1e-9)


def test_identical_images_count_as_the_cap_and_are_counted() -> None:
    a, b = noisy_pair(2)
    meter = Psnr(cap=100)
    both = values_of(meter, torch.cat([a, a[:1]]), torch.cat([b, a[:1]]))
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
    meter = L1()
    meter.update(a[:2], b[:2])
    meter.update(a[2:], b[2:])
    expected = np.abs(a.numpy().astype(float) - b.numpy()).mean() / 255
    assert meter.result()["l1"] == pytest.approx(expected, rel=1e-12)


def test_a_histogram_of_equal_values_is_centred_on_them() -> None:
    bars = histogram(np.full(7, 30.0))
    assert (bars["low"], bars["high"]) == (29.5, 30.5) and sum(bars["counts"]) == 7
    spread = histogram(np.array([10.0, 20.0, 30.0]), bins=4)
    assert (spread["low"], spread["high"], spread["counts"]) == (10.0, 30.0, [1, 0, 1, 1])


def test_floats_of_the_model_are_rounded_once() -> None:
    a, b = noisy_pair()
    bytes_, floats = Psnr(), Psnr()
    bytes_.update(a, b)
    floats.update(a / 127.5 - 1, b / 127.5 - 1)
    assert float(bytes_.compute()) == float(floats.compute()) == bytes_.result()["psnr"]["mean"]
