"""The ConvNeXt loss, against torchvision's network called by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import convnext_tiny

from imtok.common.build import build
from imtok.common.errors import MissingWeights, UserError
from imtok.common.types import Quantized, TokenizerOutput
from imtok.losses.convnext import ConvNeXt, ConvNeXtNet


def test_it_is_the_error_of_torchvisions_logits(tmp_path) -> None:
    torch.manual_seed(1)
    reference = convnext_tiny().eval()
    for block in reference.modules():  # layer scales start at 1e-6, which would hide most of the network
        if isinstance(getattr(block, "layer_scale", None), nn.Parameter):
            nn.init.ones_(block.layer_scale)
    torch.save(reference.state_dict(), tmp_path / "net.pth")
    net = ConvNeXtNet(size="tiny", side=64, weights=str(tmp_path / "net.pth"))
    a, b = torch.rand(2, 3, 48, 48), torch.rand(2, 3, 48, 48)

    def logits(x: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x, (64, 64), mode="bilinear", align_corners=False, antialias=True)
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        return reference((x - mean[:, None, None]) / deviation[:, None, None])

    with torch.no_grad():
        expected = ((logits(a) - logits(b)) ** 2).mean(1)
    torch.testing.assert_close(net(2 * a - 1, 2 * b - 1), expected, rtol=1e-4, atol=1e-6)


def test_gradients_reach_the_picture_and_nothing_is_trained_or_saved() -> None:
    term = ConvNeXt(size="tiny", side=32, weights="random")
    picture = torch.zeros(2, 3, 32, 32, requires_grad=True)
    output = TokenizerOutput({}, Quantized({}, {}), picture)
    term({"image": torch.rand(2, 3, 32, 32)}, output).backward()
    assert picture.grad.abs().sum() > 0
    assert not list(term.parameters()) and not term.state_dict() and term.weights_are_random


def test_it_is_fp32_inside_any_autocast_where_that_is_said() -> None:
    batch, output = (
        {"image": torch.rand(1, 3, 32, 32)},
        TokenizerOutput({}, Quantized({}, {}), torch.zeros(1, 3, 32, 32)),
    )
    for precision in ("auto", "fp32"):
        term = ConvNeXt(size="tiny", side=32, weights="random", precision=precision)
        exact = term(batch, output)
        with torch.autocast("cpu", torch.bfloat16):
            assert bool(term(batch, output) == exact) == (precision == "fp32")


def test_mistakes_are_one_line(monkeypatch, tmp_path) -> None:
    with pytest.raises(UserError, match=r"^loss\.sharp\.term\.size=huge: .* one of small"):
        build({"_target_": "imtok.losses.convnext.ConvNeXt", "size": "huge"}, key="loss.sharp.term")
    with pytest.raises(ValueError, match=r"^side=16"):
        ConvNeXt(side=16)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(
        MissingWeights, match=r"weights=pretrained: convnext_small-0c510722.pth is not here.*weights=PATH"
    ):
        ConvNeXt()
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="another architecture than torchvision's convnext_tiny"):
        ConvNeXt(size="tiny", weights=str(tmp_path / "other.pth"))
