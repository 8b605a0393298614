import numpy as np
import pytest
import torch
from PIL import Image

from imtok.common.build import build
from imtok.data.transforms import (
    AdmCentreCrop,
    AdmRandomCrop,
    CentreCrop,
    RandomCrop,
    RandomResizedCrop,
    adm_centre_crop,
    box_halved,
    random_flip,
)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def chw(array):
    return torch.from_numpy(np.array(array)).permute(2, 0, 1)


def adm_by_pillow(array, size):
    """The rule in words: halve with BOX while the short side is at least twice the target, BICUBIC to it, centre."""
    image = Image.fromarray(array)
    while min(image.width, image.height) >= size + size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    factor = size / min(image.width, image.height)
    image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
    x, y = (image.width - size) // 2, (image.height - size) // 2
    return np.asarray(image.crop((x, y, x + size, y + size)))


@pytest.mark.parametrize(
    ("height", "width"),
    [
        (64, 64),
        (65, 64),
        (90, 70),
        (128, 128),
        (128, 200),
        (131, 129),
        (257, 385),
        (300, 511),
        (519, 1033),
        (40, 30),
        (64, 641),
    ],
)
def test_adm_centre_crop_is_the_pillow_rule(height, width):
    array = noise(height, width)
    found, expected = adm_centre_crop(chw(array), 64), chw(adm_by_pillow(array, 64))
    assert found.shape == (3, 64, 64)
    assert (found.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(("height", "width"), [(10, 14), (11, 14), (11, 15), (101, 255), (259, 517), (1001, 1999)])
def test_box_halving_of_wide_images_is_pillows_to_the_bit(height, width):
    array = noise(height, width)
    expected = Image.fromarray(array).resize((width // 2, height // 2), Image.Resampling.BOX)
    assert torch.equal(box_halved(chw(array)), chw(expected))


CROPS = [
    AdmCentreCrop(size=32),
    CentreCrop(size=32),
    RandomCrop(size=32),
    RandomCrop(size=32, mode="bilinear"),
    AdmRandomCrop(size=32),
    RandomResizedCrop(size=32),
]


@pytest.mark.parametrize("crop", CROPS, ids=lambda c: c.name)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (200, 90), (7, 300), (20, 15), (1, 1)])
def test_crops_fill_their_size_and_repeat(crop, height, width):
    image = chw(noise(height, width))
    first = crop(image, torch.Generator().manual_seed(3))
    assert first.shape == (3, 32, 32) and first.dtype == torch.uint8
    state = torch.get_rng_state()
    assert torch.equal(first, crop(image, torch.Generator().manual_seed(3)))
    assert torch.equal(state, torch.get_rng_state())  # the global generator is left alone


def test_centre_crop_against_pillow():
    array = noise(90, 140)
    whole = Image.fromarray(array).resize((50, 32), Image.Resampling.BICUBIC)
    found = CentreCrop(size=32)(chw(array))
    assert (found.int() - chw(whole.crop((9, 0, 41, 32))).int()).abs().max() <= 1


@pytest.mark.parametrize(
    ("mode", "filter_"), [("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)]
)
def test_random_crop_is_pillows_resize_and_a_window_of_it(mode, filter_):
    """Windows that begin at a whole step of the resize: 90 rows to 30, so every third column of the file."""
    array = noise(90, 150)
    whole = chw(Image.fromarray(array).resize((50, 30), filter_)).int()
    lefts, exact = set(), 0
    for seed in range(200):
        window = RandomCrop(size=30, mode=mode)(chw(array), torch.Generator().manual_seed(seed)).int()
        gaps = [(window - whole[:, :, left : left + 30])[..., 3:-3].abs().max() for left in range(21)]
        lefts.add(int(np.argmin(gaps)))
        exact += int(min(gaps) <= 1)
    assert lefts == set(range(21))
    assert 30 < exact < 110  # a third


def test_centre_crop_with_another_filter_is_pillows():
    array = noise(90, 140)
    whole = Image.fromarray(array).resize((50, 32), Image.Resampling.BILINEAR)
    found = CentreCrop(size=32, mode="bilinear")(chw(array))
    assert (found.int() - chw(whole.crop((9, 0, 41, 32))).int()).abs().max() <= 1
    assert CentreCrop(size=32, mode="bilinear").describe() == "centre crop (bilinear) 32"


def test_a_crop_without_antialias_is_opencvs_bilinear_resize():
    """INTER_LINEAR by its definition: the four pixels around ((i + 0.5) * scale - 0.5), whatever the scale."""
    array = noise(96, 96).astype(np.float64)
    place = (np.arange(32) + 0.5) * 3 - 0.5
    low, share = np.floor(place).astype(int), place - np.floor(place)
    rows = array[low] * (1 - share)[:, None, None] + array[low + 1] * share[:, None, None]
    expected = rows[:, low] * (1 - share)[None, :, None] + rows[:, low + 1] * share[None, :, None]
    crop = RandomCrop(size=32, mode="bilinear", antialias=False)
    found = crop(chw(array.astype(np.uint8)), torch.Generator().manual_seed(0)).permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 1
    smooth = RandomCrop(size=32, mode="bilinear")(chw(array.astype(np.uint8)), torch.Generator().manual_seed(0))
    assert found.std() > 1.5 * smooth.numpy().std()
    assert crop.decode_at_least is None and crop.describe() == "random crop (bilinear, no antialias) 32"


def ramp(height, width):
    """Column number in red, row number in green: a crop tells where it was taken."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x, y, 0 * x], -1).astype(np.uint8)


def test_random_crops_reach_everywhere_and_keep_their_bounds():
    image = chw(ramp(100, 200))
    adm, resized = AdmRandomCrop(size=32), RandomResizedCrop(size=32, min_area=0.25)
    lefts, sides, areas = [], [], []
    for seed in range(300):
        window = adm(image, torch.Generator().manual_seed(seed)).float()
        lefts.append(window[0].min().item())
        sides.append((window[0].max() - window[0].min()).item())
        window = resized(image, torch.Generator().manual_seed(seed)).float()
        areas.append(((window[0].max() - window[0].min()) * (window[1].max() - window[1].min())).item() / (100 * 200))
    assert min(lefts) < 5 and max(lefts) > 100
    assert 0.8 * 100 - 5 <= min(sides) <= 84 and 95 <= max(sides) <= 101
    assert 0.2 < min(areas) < 0.35 and max(areas) < 1.01


def test_random_crop_scales_agree_with_decode_at_least():
    # LlamaGen: short side up to ceil(256 / 0.8) = 320.
    assert AdmRandomCrop(size=256).decode_at_least == 320
    assert RandomCrop(size=256).decode_at_least == 256
    # open_clip's 0.9 to 1 of the area at 3:4 to 4:3 of the aspect: the shorter side of the smallest window is 256.
    assert RandomResizedCrop(size=256, min_area=0.9).decode_at_least == 312
    assert CentreCrop(size=256).decode_at_least is None and AdmCentreCrop(size=256).decode_at_least is None


def test_flip():
    image = chw(ramp(4, 6))
    outcomes = [random_flip(image, torch.Generator().manual_seed(s))[0, 0, 0].item() for s in range(200)]
    assert set(outcomes) == {0, 5} and 60 < outcomes.count(5) < 140


@pytest.mark.parametrize(
    "wrong", [{"min_fraction": 0}, {"max_fraction": 1.5}, {"min_fraction": 0.9, "max_fraction": 0.8}]
)
def test_impossible_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdmRandomCrop(size=32, **wrong)


@pytest.mark.parametrize("crop", [RandomCrop, RandomResizedCrop])
def test_an_unknown_filter_is_refused(crop):
    with pytest.raises(ValueError, match=r"crop.mode=lanczos: .* takes one of bicubic, bilinear"):
        build({"_target_": f"imtok.data.transforms.{crop.__name__}", "size": 32, "mode": "lanczos"}, key="crop")


def test_windows_of_a_random_resized_crop_have_uniform_areas_and_aspects():
    crop, generator = RandomResizedCrop(size=8, min_area=0.2, max_area=0.4, max_aspect=2.0), torch.Generator()
    sizes = np.array([crop._window_size(1200, 1200, generator) for _ in range(3000)])
    area, aspect = sizes.prod(1) / 1200**2, np.log2(sizes[:, 1] / sizes[:, 0])
    assert 0.199 < area.min() < 0.202 and 0.398 < area.max() < 0.401 and abs(area.mean() - 0.3) < 0.005
    assert -1.01 < aspect.min() < -0.98 and 0.98 < aspect.max() < 1.01 and abs(aspect.mean()) < 0.05
    assert abs(np.corrcoef(area, aspect)[0, 1]) < 0.08


@pytest.mark.parametrize(("height", "width", "window"), [(10, 1000, (10, 20)), (1000, 10, (20, 10)), (1, 1, (1, 1))])
def test_a_very_long_image_gives_its_largest_allowed_window(height, width, window):
    crop = RandomResizedCrop(size=8, min_area=0.9, max_aspect=2.0)
    assert crop._window_size(height, width, torch.Generator().manual_seed(0)) == window


def test_settings_of_a_random_resized_crop_at_their_limits():
    whole = RandomResizedCrop(size=32, min_area=1.0, max_aspect=1.0)
    image = chw(noise(32, 32))
    assert torch.equal(whole(image, torch.Generator().manual_seed(0)), image)
    assert whole.decode_at_least == 32 and RandomResizedCrop(size=256).decode_at_least == 661  # 256 / sqrt(0.2 * 3/4)
    for wrong in ({"min_area": 0}, {"max_area": 1.1}, {"min_area": 0.5, "max_area": 0.4}, {"max_aspect": 0.9}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RandomResizedCrop(size=32, **wrong)


def test_every_short_side_of_an_adm_random_crop_is_as_likely():
    """8 of 8, 9, 10 pixels: windows of 100, 89 and 80 of a picture's 100 rows."""
    crop, image = AdmRandomCrop(size=8), chw(ramp(100, 100))
    assert (crop.smallest, crop.largest) == (8, 10)
    whole = AdmRandomCrop(size=8, min_fraction=1.0)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(whole(image, generator), adm_centre_crop(image, 8))
    spans = []
    for _ in range(600):
        window = crop(image, generator).float()
        spans.append(round((window[0].max() - window[0].min()).item() * 8 / 7))
    sides = [min((80, 89, 100), key=lambda side: abs(side - span)) for span in spans]
    assert all(abs(span - side) < 4 for span, side in zip(spans, sides, strict=True))
    assert all(150 < sides.count(side) < 250 for side in (80, 89, 100))
