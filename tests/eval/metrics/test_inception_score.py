"""Against torch-fidelity, whose splits are chunks of what it is given."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from imtok.eval.metrics.features import SIDES
from imtok.eval.metrics.inception import CLASSES
from imtok.eval.metrics.inception_score import InceptionScore, split_of


def logits(count: int = 60) -> tuple[torch.Tensor, list[str]]:
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(count) * 10 // count  # sorted by class, the order that misleads chunked scores
    found = torch.randn(count, CLASSES, generator=generator)
    found[torch.arange(count), classes] += 9
    return found, [f"{i:03d}.png" for i in range(count)]


class Given(InceptionScore):
    """Logits in place of images."""

    def features(self, reference, reconstruction, unrounded):
        return [(None, reference), (None, reconstruction)]

    @property
    def extractor(self):
        return SimpleNamespace(label="given")


def metric_of(features: torch.Tensor, keys: list[str], batch: int = 7) -> Given:
    metric = Given()
    for start in range(0, len(keys), batch):
        part = features[start : start + batch]
        metric.update(-part, part, keys=keys[start : start + batch])
    return metric


def scored(features: torch.Tensor, keys: list[str], batch: int = 7) -> dict:
    found = metric_of(features, keys, batch).result()["inception_score[given]"]
    assert found.pop("extractor") == "given"
    return found


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
    shuffled = scored(features[order], [keys[i] for i in order], batch=11)
    assert shuffled.pop("originals") == pytest.approx(expected.pop("originals"))
    assert shuffled == pytest.approx(expected)
    left, right = metric_of(features[:20], keys[:20]), metric_of(features[20:], keys[20:])
    left.merge_state(right)
    joined = left.result()["inception_score[given]"]
    assert {k: joined[k] for k in expected} == pytest.approx(expected)


def test_that_of_the_originals_stands_beside() -> None:
    features, keys = logits()
    assert scored(features, keys)["originals"] == pytest.approx(
        {k: v for k, v in scored(-features, keys).items() if k != "originals"}
    )
    assert len(SIDES) == 2
