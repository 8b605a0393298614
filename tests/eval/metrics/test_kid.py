"""Against the estimator written out as sums over pairs, and torchmetrics."""

import itertools

import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from imtok.eval.metrics import Kid, extractor
from imtok.eval.metrics.base import TooFewImages
from imtok.eval.metrics.kid import kernel_distances


def rows(count: int, *, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def by_pairs(a: torch.Tensor, b: torch.Tensor) -> float:
    """Binkowski et al., equation 4: no pair of a feature with itself."""

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return float(x @ y / len(x) + 1) ** 3

    n, m = len(a), len(b)
    within_a = sum(kernel(a[i], a[j]) for i, j in itertools.permutations(range(n), 2)) / (n * (n - 1))
    within_b = sum(kernel(b[i], b[j]) for i, j in itertools.permutations(range(m), 2)) / (m * (m - 1))
    return within_a + within_b - 2 * sum(kernel(x, y) for x in a for y in b) / (n * m)


def test_a_subset_of_all_is_the_estimator() -> None:
    a, b = rows(9, seed=0), rows(9, seed=1, shift=0.5)
    found = kernel_distances(a, b, subsets=2, subset_size=9, seed=0)
    assert found.tolist() == pytest.approx([by_pairs(a, b)] * 2, rel=1e-12)


def test_it_is_torchmetrics_number_for_all_images() -> None:
    a, b = rows(20, seed=0), rows(20, seed=1, shift=0.3)
    theirs = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=20)
    theirs.real_features, theirs.fake_features = [a], [b]
    theirs._update_count = 1
    ours = kernel_distances(a, b, subsets=1, subset_size=20, seed=3)
    assert float(ours.mean()) == pytest.approx(float(theirs.compute()[0]), rel=1e-6)


def test_sets_of_one_law_are_at_no_distance_on_average() -> None:
    """Unbiased: negative as often as not, where a biased estimate is positive."""
    found = torch.cat([kernel_distances(rows(40, seed=i), rows(40, seed=99 + i), subsets=5, subset_size=20, seed=i)
                       for i in range(20)])  # fmt: skip
    assert abs(float(found.mean())) < 3 * float(found.std()) / len(found) ** 0.5 * 5**0.5
    assert (found < 0).any() and (found > 0).any()


def images(count: int = 12) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 256, (2, count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return a, b // 2, [f"{i}.png" for i in range(count)]


def test_subsets_follow_the_keys_and_not_the_order() -> None:
    a, b, keys = images()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5)).tolist()
    entries = []
    for rows_, names in ((list(range(12)), keys), (order, [keys[i] for i in order])):
        metric = Kid(extractor=extractor("randconv-64"), subsets=7, subset_size=5)
        metric.update(a[rows_[:5]], b[rows_[:5]], keys=names[:5])
        metric.update(a[rows_[5:]], b[rows_[5:]], keys=names[5:])
        entries.append(metric.result()["kid[randconv-64]"])
    first, second = entries
    assert first["value"] == pytest.approx(second["value"], rel=1e-6) and first["std"] > 0
    assert (first["n"], first["subsets"], first["subset_size"]) == (12, 7, 5)


def test_fewer_images_than_a_subset_are_a_reason() -> None:
    a, b, _ = images()
    metric = Kid(extractor=extractor("randconv-64"), subset_size=13)
    metric.update(a, b)
    with pytest.raises(TooFewImages, match="12 images are fewer than its subset_size of 13"):
        metric.compute()
