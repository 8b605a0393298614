"""Defaults that published numbers depend on, and the least that each setting may be."""

import inspect

import pytest
import torch

from imtok.eval.metrics import Kid, PrecisionRecall, extractor
from imtok.eval.metrics.base import Quantity, base_of, headline, is_random
from imtok.eval.metrics.features import number_of
from imtok.eval.metrics.psnr import Psnr


def defaults_of(metric: type) -> dict:
    return {n: p.default for n, p in inspect.signature(metric).parameters.items() if p.kind is p.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("metric", "published"),
    [
        (Kid, {"subsets": 100, "subset_size": 1000, "seed": 0}),  # torch-fidelity
        (PrecisionRecall, {"k": 3}),  # Kynkaanniemi et al., section 3
        (Psnr, {"cap": 100.0}),
    ],
)
def test_defaults(metric: type, published: dict) -> None:
    assert defaults_of(metric).items() >= published.items()


def test_the_least_settings() -> None:
    small = extractor("randconv-64")
    assert Kid(extractor=small, subsets=1, subset_size=2).subset_size == 2
    assert PrecisionRecall(extractor=small, k=1).k == 1
    for metric, wrong in ((Kid, {"subsets": 0}), (Kid, {"subset_size": 1}), (PrecisionRecall, {"k": 0})):
        [(name, value)] = wrong.items()
        with pytest.raises(ValueError, match=f"^{name}={value}: at least {value + 1}$"):
            metric(extractor=small, **wrong)


def test_a_subset_may_be_all_images_and_k_all_others() -> None:
    images = torch.randint(0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    small = extractor("randconv-64")
    kid, manifold = Kid(extractor=small, subset_size=4, subsets=2), PrecisionRecall(extractor=small)
    for metric in (kid, manifold):
        metric.update(images, images // 2)
        assert all(found["n"] == 4 for found in metric.result().values())
    [found] = kid.result().values()
    assert found["std"] == pytest.approx(0, abs=1e-12), "each subset is the whole set"
    said = kid.note({"std": 0.25, "subsets": 1000, "subset_size": 4, "n": 5})
    assert said.startswith("± 0.250000 over 1,000 subsets of 4 of 5 images")


def test_numbers_of_keys_are_64_bits_that_follow_from_key_and_seed() -> None:
    found = {number_of(key, seed=seed) for key in map(str, range(50)) for seed in (0, 1)}
    assert len(found) == 100 and 2**62 < max(found) < 2**64
    assert number_of("a", seed=0) == number_of("a", seed=0)


def test_names_of_results() -> None:
    assert base_of("fid[randconv-64]@13") == "fid" and base_of("psnr") == "psnr" and base_of("rfid@5") == "rfid"
    assert headline({"value": 1, "mean": 2}) == 1.0 and headline({"mean": 2}) == 2.0 and headline(3) == 3.0
    assert is_random("fd[dinov2_b][random]@6") and is_random("fid[randconv-64]@3") and not is_random("lpips_vgg[1a2b]")
    shown = Quantity("t")
    assert (shown.decimals, shown.curve_decimals) == (4, 4)
