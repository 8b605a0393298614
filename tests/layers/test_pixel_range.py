"""Networks of pixels in [0, 1] within [-1, 1], and no weights of one range in the other."""

import pytest
import torch

from imtok.decoders.mask_token_vit import MaskTokenViTDecoder
from imtok.layers.pixel_range import PixelRange
from imtok.tokenizers.encoders.latent_vit import LatentViTEncoder

SIZES = {"dim": 4, "num_tokens": 4, "image_size": 32, "width": 16, "depth": 1, "num_heads": 2}


def test_in_and_out() -> None:
    unit, signed = PixelRange("unit"), PixelRange("signed")
    x = torch.tensor([-1.0, 0.0, 1.0])
    assert unit.inward(x).tolist() == [0.0, 0.5, 1.0] and signed.inward(x) is x
    assert torch.equal(unit.outward(unit.inward(x)), x) and signed.outward(x) is x


def test_a_network_of_zero_to_one_is_the_other_with_its_images_moved() -> None:
    torch.manual_seed(0)
    unit, signed = (LatentViTEncoder(**SIZES, image_range=name) for name in ("unit", "signed"))
    signed.load_state_dict({k: v for k, v in unit.state_dict().items() if "pixel_range" not in k})
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(unit(images)["main"].x_BND, signed((images + 1) / 2)["main"].x_BND)
    painter, other = (MaskTokenViTDecoder(**SIZES, image_range=name) for name in ("unit", "signed"))
    other.load_state_dict({k: v for k, v in painter.state_dict().items() if "pixel_range" not in k})
    codes = unit(images)
    torch.testing.assert_close(painter(codes), 2 * other(codes) - 1)


def test_weights_of_another_range_are_no_silent_fit() -> None:
    unit, signed = (LatentViTEncoder(**SIZES, image_range=name) for name in ("unit", "signed"))
    with pytest.raises(RuntimeError, match=r"pixel_range\.bounds"):
        unit.load_state_dict(signed.state_dict())
    with pytest.raises(RuntimeError, match=r"pixel_range\.bounds"):
        signed.load_state_dict(unit.state_dict())
