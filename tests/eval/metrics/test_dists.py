"""Against torchmetrics' network, whose trunk is put in place of a download."""

from types import SimpleNamespace

import pytest
import torch
import torchmetrics.functional.image.dists as theirs
from torch import nn

from imtok.common.errors import MissingWeights
from imtok.eval.metrics import Dists
from imtok.losses.lpips import LPIPSNet


def images(count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 256, (count, 3, 40, 48), generator=generator, dtype=torch.uint8)
    b = (a.float() + 60 * torch.randn(a.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
    return a, b


def test_it_is_torchmetrics_number(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = images()
    metric = Dists(weights="random")
    metric.update(a[:1], b[:1])  # one image: torchmetrics' own shape of it differs
    metric.update(a[1:], b[1:])
    trunk = LPIPSNet(net="vgg", weights="random").features
    monkeypatch.setattr(
        theirs, "vgg16", lambda weights: SimpleNamespace(features=nn.Sequential(*trunk, nn.MaxPool2d(2)))
    )
    expected = theirs.deep_image_structure_and_texture_similarity(a.float() / 255, b.float() / 255, reduction="mean")
    assert float(metric.compute()) == pytest.approx(float(expected), rel=1e-4)
    assert list(metric.result()) == ["dists[random]"]


def test_an_image_is_at_no_distance_from_itself() -> None:
    a, _ = images()
    metric = Dists(weights="random")
    metric.update(a, a)
    assert float(metric.compute()) == pytest.approx(0, abs=1e-5)


def test_a_missing_trunk_is_named(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"protocol\.lpips_vgg=pretrained.*vgg16-397923af"):
        Dists().prepare(torch.device("cpu"))
