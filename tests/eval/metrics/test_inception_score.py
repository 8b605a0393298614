"""Against torch-fidelity, whose splits are chunks of what it is given."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from imtok.eval.metrics.inception_score import InceptionScore, split_of


def logits(count: int = 60) -> tuple[torch.Tensor, list[str]]:
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(count) * 10 // count  # sorted by class, the order that misleads chunked scores
    found = torch.randn(count, 10, generator=generator)
    found[torch.arange(count), classes] += 4
    return found, [f"{i:03d}.png" for i in range(count)]


def scored(features: torch.Tensor, keys: list[str], batch: int = 7) -> dict:
    meter = InceptionScore()
    for start in range(0, len(keys), batch):
        meter.update(features[start : start + batch], keys[start : start + batch])
    return meter.result()


def test_one_split_is_torch_fidelitys() -> None:
    features, keys = logits()
    expected = isc_features_to_metric(features, splits=1, shuffle=False)["inception_score_mean"]
    assert scored(features, keys)["value"] == pytest.approx(expected, rel=1e-9)


def test_each_shuffled_split_is_torch_fidelitys_of_those_images() -> None:
    features, keys = logits()
    where = np.array([split_of(k, splits=10, seed=0) for k in keys])
    parts = [
        isc_features_to_metric(features[where == s], splits=1, shuffle=False)["inception_score_mean"]
        for s in sorted(set(where))
    ]
    result = scored(features, keys)
    assert result["splits_mean"] == pytest.approx(np.mean(parts), rel=1e-9)
    assert result["splits_std"] == pytest.approx(np.std(parts), rel=1e-9)


def test_neither_order_nor_batches_nor_shards_change_it() -> None:
    features, keys = logits()
    expected = scored(features, keys)
    order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(3)).tolist()
    assert scored(features[order], [keys[i] for i in order], batch=11) == pytest.approx(expected)
    left, right = InceptionScore(), InceptionScore()
    left.update(features[:20], keys[:20])
    right.update(features[20:], keys[20:])
    left.merge(right)
    assert left.result() == pytest.approx(expected)
