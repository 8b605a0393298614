"""Each augmentation alone against its definition."""

import pytest
import torch

from imtok.losses.adversarial.diff_augment import DiffAugment, blurred, cut_out, recoloured, shifted


def test_shifts_are_whole_pixels_with_zeros_from_outside() -> None:
    images = torch.rand(40, 2, 16, 24) + 1
    out = shifted(images, 0.25)
    seen = set()
    for before, after in zip(images, out, strict=True):
        found = []
        for down in range(-4, 5):
            for right in range(-6, 7):
                rows, columns = slice(max(0, -down), 16 - max(0, down)), slice(max(0, -right), 24 - max(0, right))
                source = before[:, max(0, down) : 16 + min(0, down), max(0, right) : 24 + min(0, right)]
                expected = torch.zeros_like(before)
                expected[:, rows, columns] = source
                if torch.equal(after, expected):
                    found.append((down, right))
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 20  # each picture its own


def test_colours_keep_the_shape_of_things() -> None:
    images = torch.rand(6, 3, 8, 8)
    out = recoloured(images)
    grey = images.mean(dim=1, keepdim=True) - images.mean(dim=(1, 2, 3), keepdim=True)
    contrast = (out.mean(dim=1, keepdim=True) - out.mean(dim=(1, 2, 3), keepdim=True)) / grey
    assert torch.allclose(contrast, contrast[:, :, :1, :1].expand_as(contrast), atol=1e-2)
    assert bool(((contrast[:, 0, 0, 0] > 0.5) & (contrast[:, 0, 0, 0] < 1.5)).all())
    assert float((out.mean(dim=(1, 2, 3)) - images.mean(dim=(1, 2, 3))).abs().max()) <= 0.5


def test_one_square_is_blank() -> None:
    out = cut_out(torch.ones(200, 3, 20, 20), 0.2)
    blank = (out == 0)[:, 0]
    rows, columns = blank.any(dim=2).sum(dim=1), blank.any(dim=1).sum(dim=1)
    assert int(rows.max()) == int(columns.max()) == 4
    assert int(rows.min()) == int(columns.min()) == 2  # a centre on the edge leaves half of it
    assert torch.equal(blank.flatten(1).sum(dim=1), rows * columns)


def test_gradients_pass_and_chance_zero_does_nothing() -> None:
    images = torch.rand(4, 3, 16, 16, requires_grad=True)
    DiffAugment()(images).sum().backward()
    assert float(images.grad.abs().sum()) > 0
    assert torch.equal(DiffAugment(chance=0.0)(images), images)
    with pytest.raises(ValueError, match=r"^cutout=1\.5"):
        DiffAugment(cutout=1.5)


def test_a_blur_keeps_means_and_spreads_a_point_as_far_as_it_says() -> None:
    point = torch.zeros(1, 3, 33, 33)
    point[..., 16, 16] = 1.0
    out = blurred(point, 2.0)
    torch.testing.assert_close(out.sum(dim=(2, 3)), torch.ones(1, 3))
    x = torch.arange(33) - 16.0
    variance = float((out[0, 0].sum(dim=0) * x.square()).sum())
    assert variance == pytest.approx(2.0**2 / (2 * 0.6931), rel=0.01)  # 2^-(x/w)^2 is a normal of variance w^2 / 2 ln 2
    assert torch.equal(blurred(point, 0.2), point)  # narrower than a pixel


def test_the_blur_fades_after_the_start_and_not_before() -> None:
    augment, images = DiffAugment(chance=0.0, blur_updates=10), torch.rand(1, 3, 32, 32)
    apart = []
    for update in (-5, 0, 5, 9, 10, 99):
        augment.set_update(update)
        apart.append(float((augment(images) - images).abs().mean()))
    assert apart[0] == apart[1] > apart[2] > apart[3] > 0 == apart[4] == apart[5]
    with pytest.raises(ValueError, match=r"^blur_updates=-1"):
        DiffAugment(blur_updates=-1)
