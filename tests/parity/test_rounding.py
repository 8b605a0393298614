"""What rounding is allowed: three times what it moves, never as much as a wrong weight."""

import json

import pytest
import torch

from imtok.parity.rounding import a_rounding_error_away, allowed_by_measure, allowed_unmeasured, known_noise, most

STORED = torch.tensor([-1.0, 0.0, 1.0])  # of deviation 1


@pytest.mark.parametrize(
    ("name", "moved", "allowed"),
    [
        ("grad.conv.weight", 0.0, 0.0),
        ("discriminator.grad_norms", 2e-3, 6e-3),
        ("grad.conv.weight", 0.5, 1e-2),
        ("reconstruction", 1e-4, 3e-4),
        ("reconstruction", 0.5, 1e-3),
        ("step1.conv.weight", 0.0, 0.0),
    ],
)
def test_measured(name, moved, allowed):
    again = [lambda _: STORED, lambda _: STORED + moved]
    assert allowed_by_measure(name, STORED, STORED, again) == pytest.approx(allowed, rel=1e-3)
    assert allowed <= most(name)


def test_single_entries_of_gradients_where_nothing_is_known():
    assert allowed_unmeasured(None, "grad.a", STORED) == allowed_unmeasured(None, "grad_norms", STORED) == 3e-3
    assert allowed_unmeasured(None, "grad_norm", torch.tensor(2.0)) == 0.0
    assert allowed_unmeasured(None, "step1.a", STORED) == allowed_unmeasured({}, "grad.a", STORED) == 0.0


def test_the_file_beside_the_folders(tmp_path):
    assert known_noise(tmp_path / "vqgan") is None
    (tmp_path / "rounding_noise.json").write_text(json.dumps({"vqgan": {"grad.a": 1e-3}, "unitok": {}}))
    noise = known_noise(tmp_path / "vqgan")
    assert allowed_unmeasured(noise, "grad.a", STORED) == pytest.approx(3e-3)
    assert allowed_unmeasured(noise, "grad.b", STORED) == 0.0
    assert known_noise(tmp_path / "ibq") is None and known_noise(tmp_path / "unitok") == {}


def test_a_rounding_error_is_one():
    images = torch.rand(2, 3, 8, 8) + 0.1
    moved = (a_rounding_error_away(images) - images).abs()
    assert 0 < float((moved / images).max()) < 1e-6
