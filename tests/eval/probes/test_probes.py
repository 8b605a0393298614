"""Probes on features whose answers are known without any library."""

import math

import pytest
import torch

from imtok.eval.probes.knn import knn_predict
from imtok.eval.probes.linear_probe import fit_linear_probe
from imtok.eval.probes.retrieval import recall_at_1
from imtok.eval.probes.zero_shot import class_vectors, zero_shot_predict


def blobs(count: int, *, classes: int = 3, seed: int = 0, spread: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """Corners of a simplex with a little noise, beside a constant and a huge feature that says nothing."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    useful = torch.eye(classes)[labels] + spread * torch.randn(count, classes, generator=generator)
    return torch.cat([useful, torch.ones(count, 1), 1000 * torch.randn(count, 1, generator=generator)], dim=1), labels


def test_a_linear_probe_separates_what_a_line_separates() -> None:
    probe = fit_linear_probe(*blobs(90), classes=3)
    features, labels = blobs(60, seed=1)
    assert torch.equal(probe.predict(features), labels)
    again = fit_linear_probe(*blobs(90), classes=3)
    assert torch.equal(again.weight_CD, probe.weight_CD)  # no chance in it
    assert not probe.weight_CD.requires_grad and not probe.bias_C.requires_grad


def test_a_linear_probe_cannot_read_xor() -> None:
    corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(25, 1)
    labels = torch.tensor([0, 1, 1, 0]).repeat(25)
    probe = fit_linear_probe(corners, labels, classes=2)
    assert float((probe.predict(corners) == labels).double().mean()) <= 0.75
    assert torch.equal(knn_predict(corners + 1, corners + 1, labels, classes=2, neighbours=1), labels)


def test_the_linear_probe_is_the_optimum() -> None:
    """At the minimum of cross-entropy + decay / 2 |W|^2 its gradient is zero."""
    features, labels = blobs(60, spread=1.0)
    probe = fit_linear_probe(features, labels, classes=3)
    x = (features.double() - probe.mean_D) / torch.where(probe.deviation_D > 1e-8, probe.deviation_D, 1.0)
    wrong = torch.softmax(x @ probe.weight_CD.T + probe.bias_C, dim=1) - torch.eye(3, dtype=torch.double)[labels]
    assert float((wrong.T @ x / len(x) + probe.decay * probe.weight_CD).abs().max()) < 1e-4
    assert float(wrong.mean(dim=0).abs().max()) < 1e-4


def test_knn_votes_by_hand() -> None:
    fitted = torch.tensor([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 2])
    query = torch.tensor([[5.0, 1.2], [0.1, 9.0], [-3.0, 0.5]])  # lengths do not matter
    assert knn_predict(query, fitted, labels, classes=3, neighbours=2).tolist() == [0, 1, 2]
    # Two distant votes of one class against one near vote of another: the temperature decides.
    query, near = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, 0.8], [1.0, 0.0], [1.0, -0.1]])
    cosines = torch.nn.functional.cosine_similarity(query, near)
    for temperature in (0.05, 5.0):
        votes = [math.exp(c / temperature) for c in cosines.tolist()]
        expected = 1 if votes[0] > votes[1] + votes[2] else 0
        said = knn_predict(query, near, torch.tensor([1, 0, 0]), classes=2, neighbours=3, temperature=temperature)
        assert said.tolist() == [expected]
    many = torch.randn(7, 2)
    whole = knn_predict(many, fitted, labels, classes=3, neighbours=3)
    assert torch.equal(knn_predict(many, fitted, labels, classes=3, neighbours=3, rows=2), whole)


def test_zero_shot_averages_prompts() -> None:
    words = {"cat": [1.0, 0.0, 0.0], "kitten": [1.0, 1.0, 0.0], "car": [0.0, 0.0, 3.0], "van": [0.0, 0.1, 1.0]}
    prompts = [["cat", "kitten"], ["car", "van"]]

    def texts(said: list[str]) -> torch.Tensor:
        return torch.tensor([words[word] for word in said])

    vectors = class_vectors(texts, prompts)
    mean = torch.tensor([1 + math.sqrt(0.5), math.sqrt(0.5), 0.0])
    torch.testing.assert_close(vectors[0], mean / mean.norm())
    assert torch.equal(
        vectors,
        class_vectors(lambda t: torch.tensor([words[x] for x in t]), [["cat", "kitten"], ["car", "van"]], rows=1),
    )
    assert zero_shot_predict(torch.tensor([[2.0, 0.3, 0.1], [0.0, 0.5, 0.6]]), vectors).tolist() == [0, 1]


def test_retrieval_by_hand() -> None:
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [-1.0, 0.2]])
    texts = torch.tensor([[2.0, 0.0], [0.1, 1.0], [-1.0, 0.0], [-1.0, 0.3]])
    captions = ["a", "b", "c", "d"]
    # image 2 finds text 0; text 2, which points left, finds image 3; the rest find their own.
    assert recall_at_1(images, texts, captions) == pytest.approx((3 / 4, 3 / 4))
    same = ["a", "b", "a", "d"]  # now image 2's answer is a caption of its own words
    assert recall_at_1(images, texts, same)[0] == pytest.approx(1.0)
