"""Against scikit-image with the settings that the protocol names."""

import pytest
import torch
from skimage.metrics import structural_similarity

from imtok.common.errors import UserError
from imtok.eval.metrics.ssim import Ssim, ssim_per_image


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    a = torch.nn.functional.interpolate(torch.rand(3, 3, 6, 5, generator=generator), (40, 33), mode="bilinear") * 255
    b = a + torch.randn(a.shape, generator=generator) * torch.tensor([2.0, 15.0, 60.0])[:, None, None, None]
    return a.round().to(torch.uint8), b.round().clamp(0, 255).to(torch.uint8)


def test_the_gaussian_window_is_scikit_images() -> None:
    a, b = pair()
    options = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 255,
        "channel_axis": 0,
    }
    expected = [structural_similarity(x.numpy(), y.numpy(), **options) for x, y in zip(a, b, strict=True)]
    assert ssim_per_image(a, b).tolist() == pytest.approx(expected, abs=2e-6)


def test_the_legacy_window_is_scikit_images_default_with_the_wrong_range() -> None:
    a, b = pair()
    expected = [
        structural_similarity(x.numpy() / 255, y.numpy() / 255, data_range=2.0, channel_axis=0)
        for x, y in zip(a, b, strict=True)
    ]
    ours = ssim_per_image(a, b, kind="uniform7", data_range=510)
    assert ours.tolist() == pytest.approx(expected, abs=2e-6)
    assert (ours > ssim_per_image(a, b)).all(), "known to be inflated"


def test_an_image_is_identical_to_itself() -> None:
    a, _ = pair()
    assert ssim_per_image(a, a).tolist() == pytest.approx([1, 1, 1], abs=1e-6)


def test_batches_and_shards_add_up() -> None:
    a, b = pair()
    one, two, three = Ssim(), Ssim(), Ssim()
    one.update(a, b)
    two.update(a[:1], b[:1])
    three.update(a[1:], b[1:])
    two.merge_state(three)
    assert two.result()["ssim"]["mean"] == pytest.approx(one.result()["ssim"]["mean"], rel=1e-7)


def test_pictures_smaller_than_the_window_are_refused_in_words() -> None:
    tiny = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(UserError, match="image_size"):
        ssim_per_image(tiny, tiny)
