"""A timm network as encoder: its features, its own statistics, its grid, and what frozen means."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from imtok.common.errors import MissingWeights, UserError
from imtok.tokenizers.encoders.parallel import ParallelEncoder
from imtok.tokenizers.encoders.timm_grid import TimmGridEncoder

ARGS = {"channels": [8, 8, 16, 16], "stem_width": 8}


def test_it_projects_the_networks_own_features() -> None:
    encoder = TimmGridEncoder(dim=5, model_args=ARGS, layer=-2).eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((images + 1) / 2 - mean[:, None, None]) / deviation[:, None, None]
    net = encoder.network
    features = net.layer3(net.layer2(net.layer1(net.maxpool(net.act1(net.bn1(net.conv1(x)))))))
    stream = encoder(images)["main"]
    expected = encoder.project(features)
    assert stream.grid == (2, 2) == encoder.stream_shapes((32, 32))["main"].grid
    torch.testing.assert_close(stream.x_BND, expected.flatten(2).transpose(1, 2))


def test_sizes_that_do_not_divide_and_an_own_tower_size() -> None:
    encoder = TimmGridEncoder(dim=4, model_args=ARGS).eval()
    for size in ((32, 32), (48, 80)):
        assert encoder(torch.zeros(1, 3, *size))["main"].grid == encoder.stream_shapes(size)["main"].grid
    fixed = TimmGridEncoder(dim=4, model_args=ARGS, tower_size=64).eval()
    assert fixed(torch.zeros(1, 3, 32, 32))["main"].grid == fixed.stream_shapes((32, 32))["main"].grid == (2, 2)


def test_frozen_means_weights_and_running_statistics() -> None:
    encoder = TimmGridEncoder(dim=4, model_args=ARGS, trainable=False, hidden=8).train()
    before = {k: v.clone() for k, v in encoder.network.state_dict().items()}
    encoder(torch.randn(2, 3, 32, 32))["main"].x_BND.sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in encoder.network.state_dict().items())
    assert all(p.grad is None for p in encoder.network.parameters())
    assert encoder.project[0].weight.grad is not None
    trained = TimmGridEncoder(dim=4, model_args=ARGS).train()
    trained(torch.randn(2, 3, 32, 32))["main"].x_BND.sum().backward()
    assert trained.network.conv1[0].weight.grad is not None


def test_it_starts_from_a_file(tmp_path) -> None:
    file = tmp_path / "tower.safetensors"
    other = timm.create_model("resnet10t", num_classes=0, **ARGS)
    save_file(other.state_dict(), file)
    encoder = TimmGridEncoder(dim=4, model_args=ARGS, pretrained=str(file))
    assert torch.equal(encoder.network.layer1[0].conv1.weight, other.layer1[0].conv1.weight)
    with pytest.raises(MissingWeights, match=r"no such file; make it with: imtok train-teacher"):
        TimmGridEncoder(pretrained="nowhere.safetensors", made_by="imtok train-teacher")
    with pytest.raises(UserError, match=r"^pretrained=.*another architecture than timm's resnet10t; 17 other shape"):
        TimmGridEncoder(model_args=ARGS | {"stem_width": 16}, pretrained=str(file))
    with pytest.raises(ValueError, match="layer=9"):
        TimmGridEncoder(layer=9, model_args=ARGS)


def test_one_encoder_a_stream() -> None:
    small = {"_target_": "imtok.tokenizers.encoders.timm_grid.TimmGridEncoder", "model_args": ARGS}
    encoder = ParallelEncoder(encoders={"main": None, "a": small | {"dim": 3}, "b": small | {"dim": 5, "layer": -2}})
    encoder.eval()
    images = torch.randn(1, 3, 32, 32)
    latents = encoder(images)
    assert encoder.dim == {"a": 3, "b": 5}
    shapes = encoder.stream_shapes((32, 32))
    assert {n: s.x_BND.shape[1:] for n, s in latents.items()} == {"a": (1, 3), "b": (4, 5)}
    assert {n: (s.num_tokens, s.grid) for n, s in shapes.items()} == {"a": (1, (1, 1)), "b": (4, (2, 2))}
    torch.testing.assert_close(latents["b"].x_BND, encoder.encoders["b"](images)["main"].x_BND)
    with pytest.raises(ValueError, match="none are named"):
        ParallelEncoder(encoders={"main": None})
