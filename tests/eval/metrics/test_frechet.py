"""Closed forms, two-pass numpy, and torch-fidelity's own arithmetic."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from imtok.eval.metrics.frechet import FeatureSet, frechet_distance, joined, moments_of


def rows(count: int, width: int, *, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixing + offset


def moments(features: torch.Tensor, batch: int = 7) -> FeatureSet:
    """As a metric keeps them: rows up to the width, then moments of what came before."""
    rows, folded = features[:0], features.new_empty(0, features.shape[1] + 2, features.shape[1]).double()
    for part in features.split(batch):
        rows = torch.cat([rows, part])
        if len(rows) > features.shape[1]:
            found = moments_of(rows)
            folded = (joined(folded[0], found) if len(folded) else found)[None]
            rows = rows[:0]
    return FeatureSet(rows, folded)


@pytest.mark.parametrize("count", [10, 300])  # fewer images than features, and more
def test_it_is_torch_fidelitys_number(count: int) -> None:
    a, b = rows(count, 24), rows(count, 24, seed=1, offset=0.3)
    statistics = [fid_features_to_statistics(x) for x in (a, b)]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("count", [10, 300])
def test_a_set_is_at_distance_zero_from_itself(count: int) -> None:
    a = rows(count, 24, offset=5)
    assert abs(frechet_distance(moments(a), moments(a))) < 1e-6


@pytest.mark.parametrize("count", [10, 300])
def test_a_shift_costs_its_squared_length(count: int) -> None:
    a, shift = rows(count, 24), torch.linspace(-1, 2, 24, dtype=torch.float64)
    assert frechet_distance(moments(a), moments(a + shift)) == pytest.approx(float(shift.square().sum()), abs=1e-6)


@pytest.mark.parametrize("count", [10, 300])
def test_scaling_centred_features_costs_the_squared_change_of_spread(count: int) -> None:
    a = rows(count, 24)
    a = a - a.mean(0)
    trace = float(a.square().sum()) / (count - 1)
    assert frechet_distance(moments(a), moments(3 * a)) == pytest.approx(4 * trace, rel=1e-9)


def test_streaming_is_the_two_pass_result_even_far_from_the_origin() -> None:
    a = rows(200, 16, offset=1e4)
    mean, covariance = moments(a).mean_and_covariance()
    np.testing.assert_allclose(mean, a.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(a.numpy(), rowvar=False), rtol=1e-9, atol=1e-9)


def test_float32_features_are_summed_in_float64() -> None:
    a = rows(500, 16, offset=20).float()
    _, covariance = moments(a).mean_and_covariance()
    np.testing.assert_allclose(covariance, np.cov(a.double().numpy(), rowvar=False), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("counts", [(5, 6), (5, 40), (40, 5), (40, 50)])  # kept or folded on either side
def test_two_shards_are_one(counts: tuple[int, int]) -> None:
    a, b = rows(sum(counts), 12), rows(sum(counts), 12, seed=2)
    parts = [moments(part) for part in a.split(counts)]  # as torchmetrics gathers them from two processes
    whole = FeatureSet(torch.cat([p.rows for p in parts]), torch.cat([p.folded for p in parts]))
    assert whole.total == sum(counts)
    assert frechet_distance(whole, moments(b)) == pytest.approx(frechet_distance(moments(a), moments(b)), rel=1e-9)


def test_a_rank_deficient_covariance_takes_the_other_route() -> None:
    a = rows(60, 8)
    wide = torch.cat([a, a[:, :3]], 1)  # 11 features of rank 8
    other = wide + 0.5
    assert frechet_distance(moments(wide), moments(other)) == pytest.approx(11 * 0.25, abs=1e-5)
