"""Our route through the 2015 Inception is torch-fidelity's own, and its file is looked for in words."""

from pathlib import Path

import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from imtok.common.errors import MissingWeights, UserError
from imtok.eval.metrics.frechet import FeatureSet, frechet_distance
from imtok.eval.metrics.inception import PUBLISHED, InceptionExtractor, inception_network
from imtok.eval.metrics.random_convolutions import RandomConvolutions


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def extractor() -> InceptionExtractor:
    return InceptionExtractor(weights="random")


def test_features_logits_and_distance_are_torch_fidelitys(extractor: InceptionExtractor, images: torch.Tensor) -> None:
    other = images.flip(-1) // 2
    theirs = inception_network(None)
    found = []
    with torch.inference_mode():
        for batch in (images, other):
            features, logits = extractor(batch)
            expected, expected_logits = theirs(batch)
            torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)  # another layout
            torch.testing.assert_close(logits, expected_logits, rtol=1e-3, atol=1e-3)
            found.append((features, expected))
    # Their eigvals of a 2048-square product take seconds; the first 64 features obey the same arithmetic.
    statistics = [fid_features_to_statistics(expected[:, :64].double()) for _, expected in found]
    ours = [FeatureSet(features[:, :64], torch.empty(0, 66, 64)) for features, _ in found]
    expected = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert frechet_distance(*ours) == pytest.approx(expected, rel=1e-3)


def test_the_random_network_is_seeded_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = inception_network(None)
    assert torch.equal(torch.rand(3), expected)
    second = inception_network(None)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not any(p.requires_grad for p in first.parameters())


def test_signal_survives_the_random_network(extractor: InceptionExtractor, images: torch.Tensor) -> None:
    with torch.inference_mode():
        features, _ = extractor(images)
    assert features.std(0).mean() > 1e-3


def test_a_file_given_is_loaded_and_another_file_changes_the_name(tmp_path: Path, images: torch.Tensor) -> None:
    network = inception_network(None, seed=1)
    file = tmp_path / "mine.pth"
    torch.save(network.state_dict(), file)
    extractor = InceptionExtractor(weights=str(file))
    assert extractor.label == f"inception-{extractor.sha256[:8]}" and not extractor.weights_are_random
    with torch.inference_mode():
        torch.testing.assert_close(extractor(images[:1])[0], network(images[:1])[0], rtol=1e-4, atol=1e-4)


def test_a_file_of_something_else_is_refused_by_the_setting_that_named_it(tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(2)}, file)
    with pytest.raises(UserError, match=r"protocol\.inception=.*other\.pth"):
        InceptionExtractor(weights=str(file))
    with pytest.raises(UserError, match="no such file"):
        InceptionExtractor(weights=str(tmp_path / "nowhere.pth"))


def test_a_missing_file_says_where_it_was_looked_for_and_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(MissingWeights) as caught:
        InceptionExtractor()
    for words in (PUBLISHED.name, str(tmp_path), "protocol.inception=PATH"):
        assert words in str(caught.value)
    file = tmp_path / "hub" / "checkpoints" / PUBLISHED.name
    file.parent.mkdir(parents=True)
    torch.save(inception_network(None).state_dict(), file)
    extractor = InceptionExtractor()
    assert extractor.origin.path == file
    assert extractor.label == f"inception-{extractor.sha256[:8]}"  # of the right name only


def test_the_resizes_differ_as_named(images: torch.Tensor) -> None:
    def features(**options: str) -> torch.Tensor:
        extractor = InceptionExtractor(weights="random", **options)
        extractor.trunk = torch.nn.Identity()
        extractor.head = torch.nn.Linear(3 * 299 * 299, 1)
        return extractor(images if options.get("pixels") != "float" else images / 127.5 - 1)[0].view(3, 3, 299, 299)

    tf1, half, anti = (features(resize=r) for r in ("tf1_bilinear", "half_pixel_bilinear", "antialias_bilinear"))
    assert (tf1 - half).abs().max() > 0.05
    torch.testing.assert_close(half, anti, atol=2e-3, rtol=0)  # upsampling: antialias has nothing to do
    assert torch.equal(tf1[..., 0, 0] * 128 + 128, images[..., 0, 0].float())  # TF1 has no half-pixel offset
    floats = features(resize="half_pixel_bilinear", pixels="float")
    torch.testing.assert_close(floats * 127.5 + 127.5, half * 128 + 128, atol=1e-2, rtol=0)


def test_random_convolutions_are_the_same_everywhere(images: torch.Tensor) -> None:
    a, b = (RandomConvolutions()(images) for _ in range(2))
    assert a[0].shape == (3, 64) and a[1] is None and torch.equal(a[0], b[0])
