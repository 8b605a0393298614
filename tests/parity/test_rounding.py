"""What rounding is allowed: three times what it moves, never as much as a wrong weight."""

import json

import pytest
import torch

from imtok.parity.rounding import a_rounding_error_away, allowed_by_file, allowed_by_measure, known_noise, most

STORED = torch.tensor([-1.0, 0.0, 1.0])  # of deviation 1


@pytest.mark.parametrize(
    ("name", "moved", "allowed"),
    [
        ("grad.conv.weight", 0.0, 3e-3),
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


def test_a_single_gradient_has_no_floor():
    one = torch.tensor(2.0)
    assert allowed_by_measure("grad_norm", one, one, [lambda _: one]) == 0.0


def test_the_file_beside_the_folders(tmp_path):
    assert known_noise(tmp_path / "vqgan") == {}
    (tmp_path / "rounding_noise.json").write_text(json.dumps({"vqgan": {"grad.a": 1e-3}}))
    noise = known_noise(tmp_path / "vqgan")
    assert allowed_by_file(noise, "grad.a") == pytest.approx(3e-3) and allowed_by_file(noise, "grad.b") == 0.0
    assert known_noise(tmp_path / "ibq") == {}


def test_a_rounding_error_is_one():
    images = torch.rand(2, 3, 8, 8) + 0.1
    moved = (a_rounding_error_away(images) - images).abs()
    assert 0 < float((moved / images).max()) < 1e-6
