"""Against the definition written out image by image."""

import pytest
import torch

from imtok.eval.metrics import PrecisionRecall, extractor, precision_recall
from imtok.eval.metrics.base import TooFewImages
from imtok.eval.metrics.precision_recall import radii, share_within


def by_definition(points: torch.Tensor, centres: torch.Tensor, k: int) -> float:
    inside = 0
    for point in points:
        for i, centre in enumerate(centres):
            others = sorted(float((centre - other).norm()) for j, other in enumerate(centres) if j != i)
            if float((point - centre).norm()) <= others[k - 1]:
                inside += 1
                break
    return inside / len(points)


@pytest.mark.parametrize("k", [1, 3])
def test_it_is_the_definition_whatever_the_chunks(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    b = 0.7 * torch.randn(25, 4, generator=generator, dtype=torch.float64) + 0.4
    for chunk in (1024, 7):
        monkeypatch.setattr(precision_recall, "CHUNK", chunk)
        assert share_within(b, a, radii(a, k)) == by_definition(b, a, k)
        assert share_within(a, b, radii(b, k)) == by_definition(a, b, k)


def test_one_mode_of_two_is_precise_and_forgets() -> None:
    generator = torch.Generator().manual_seed(0)
    modes = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    modes[20:] += 100
    collapsed = modes[:20] + 1e-3
    assert share_within(collapsed, modes, radii(modes, 3)) == 1
    assert share_within(modes, collapsed, radii(collapsed, 3)) == 0.5


def test_images_that_are_exact_are_all_within() -> None:
    images = torch.randint(0, 256, (6, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    metric = PrecisionRecall(extractor=extractor("randconv-64"))
    metric.update(images, images)
    assert metric.compute() == {"precision[randconv-64]": 1, "recall[randconv-64]": 1}
    metric.reset()
    metric.update(images[:3], images[:3])
    with pytest.raises(TooFewImages, match="3 images have no 3 neighbours each"):
        metric.compute()
