"""A network answers the same two inputs once, whoever asks; and the seeded one is a chain that can be written out."""

import hashlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imtok.common.pixels import to_model_range
from imtok.common.weights import Weights
from imtok.eval.metrics import Rfid, extractor
from imtok.eval.metrics.features import number_of
from imtok.eval.metrics.networks import Network, SharedNetwork
from imtok.eval.metrics.random_convolutions import RandomConvolutions


class Counting(nn.Module):
    def __init__(self, *, gain: float = 2.0) -> None:
        super().__init__()
        self.weight, self.calls, self.origin = nn.Parameter(torch.full((3, 3), gain)), 0, Weights(source=None)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return sum(x @ self.weight for x in inputs)


def test_equal_settings_are_one_network_while_somebody_holds_it() -> None:
    first = Network.of(Counting, gain=3.0).on(torch.device("cpu"))
    assert Network.of(Counting, gain=3.0).on(torch.device("cpu")) is first
    assert Network.of(Counting, gain=4.0).on(torch.device("cpu")) is not first
    assert not first.module.training and not first.module.weight.requires_grad


def test_the_last_two_inputs_are_remembered() -> None:
    shared = SharedNetwork(Counting())
    a, b, c = torch.rand(3, 2, 3)
    for x in (a, b, a, b):
        assert torch.equal(shared(x), x @ shared.module.weight)
    assert shared.module.calls == 2
    shared(b), shared(a), shared(c)  # a was asked for after b, so b is forgotten
    assert shared.module.calls == 3
    shared(a)
    assert shared.module.calls == 3
    shared(b)
    assert shared.module.calls == 4
    shared(a.clone())
    assert shared.module.calls == 5


def test_an_input_that_was_changed_is_another_input() -> None:
    shared, a = SharedNetwork(Counting()), torch.ones(2, 3)
    before = shared(a)
    a.mul_(2)
    torch.testing.assert_close(shared(a), 2 * before)
    with torch.inference_mode():
        frozen = torch.ones(2, 3)
        shared(frozen), shared(frozen)
    assert shared.module.calls == 3


def test_two_inputs_are_a_pair() -> None:
    shared = SharedNetwork(Counting())
    a, b, c = torch.rand(3, 2, 3)
    shared(a, b), shared(a, b), shared(a, c), shared(b, c)
    assert shared.module.calls == 3


def test_it_runs_in_full_precision_without_a_graph() -> None:
    shared = SharedNetwork(Counting())
    with torch.autocast("cpu", torch.bfloat16):
        found = shared(torch.rand(2, 3, requires_grad=True))
    assert found.dtype == torch.float32 and not found.requires_grad


@pytest.mark.parametrize(
    ("weights", "mark"),
    [({"random": True}, "[random]"), ({"published": True}, ""), ({"sha256": "0123456789ab"}, "[01234567]")],
)
def test_a_mark_says_whose_weights(weights: dict, mark: str) -> None:
    module = Counting()
    module.origin = Weights(source="x", **weights)
    assert SharedNetwork(module).mark == mark


def test_random_convolutions_written_out() -> None:
    images = torch.randint(0, 256, (2, 3, 20, 24), dtype=torch.uint8)
    network = RandomConvolutions()
    x = images.float() / 127.5 - 1
    for weight in network.buffers():
        x = F.conv2d(x, weight, stride=2, padding=1).clamp(min=0)
    found, logits = network(images)
    torch.testing.assert_close(found, x.mean((2, 3)))
    assert logits is None and not network.wants_floats and not network.state_dict() and network.weights_are_random
    floats = RandomConvolutions(pixels="float")
    assert floats.wants_floats
    torch.testing.assert_close(floats(images)[0], found, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(floats(to_model_range(images))[0], found, rtol=1e-4, atol=1e-5)
    shapes = [tuple(w.shape[:2]) for w in network.buffers()]
    assert shapes == [(16, 3), (32, 16), (64, 32), (64, 64)]
    for weight in network.buffers():
        assert float(weight.std()) == pytest.approx((2 / (9 * weight.shape[1])) ** 0.5, rel=0.1)
    other = RandomConvolutions(seed=1)
    assert not torch.equal(next(other.buffers()), next(network.buffers()))
    assert torch.equal(next(RandomConvolutions(seed=0).buffers()), next(network.buffers()))


def test_an_images_number_is_64_bits_of_a_hash_of_seed_and_key() -> None:
    digest = hashlib.blake2b(b"3/a.png", digest_size=8).digest()
    assert number_of("a.png", seed=3) == sum(byte << (8 * i) for i, byte in enumerate(digest))


def test_an_extractor_without_a_name_that_is_known() -> None:
    with pytest.raises(ValueError, match=r"^extractor=vgg: inception-2015 or randconv-64"):
        extractor("vgg")


def test_unrounded_reconstructions_reach_only_extractors_of_floats() -> None:
    a = torch.randint(0, 256, (80, 3, 16, 16), dtype=torch.uint8)
    unrounded = to_model_range(a) * 0.5 + 0.001

    def value(pixels: str, reconstruction: torch.Tensor, **more) -> float:
        metric = Rfid(extractor=extractor("randconv-64", pixels=pixels))
        metric.update(a, reconstruction, **more)
        return metric.result()["fid[randconv-64]@80"]["value"]

    exact = value("float", unrounded)
    assert value("float", a, unrounded=unrounded) == pytest.approx(exact, rel=1e-9)
    assert value("float", a) == pytest.approx(0, abs=1e-5)  # bytes, since nothing else is given
    rounded = value("uint8", unrounded)
    assert rounded != exact and rounded == pytest.approx(exact, rel=0.05)
    assert value("uint8", a, unrounded=unrounded) == pytest.approx(0, abs=1e-5)
