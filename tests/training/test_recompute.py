"""Activation checkpointing: fewer bytes kept for the backward, the same gradients and names."""

import copy

import pytest
import torch
from torch import nn

from imtok.common.errors import UserError
from imtok.tokenizers.tokenizer import Tokenizer
from imtok.training.recompute import checkpoint_activations
from imtok.training.settings import TrainerSettings


@pytest.fixture
def tokenizer(make_node) -> Tokenizer:
    torch.manual_seed(0)
    made = Tokenizer(**make_node()).train()
    for module in made.modules():  # drops something, so that the second time has to draw as the first
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    return made


def kept_bytes_and_gradients(tokenizer: Tokenizer) -> tuple[int, dict[str, torch.Tensor]]:
    """What autograd keeps between forward and backward, each tensor once."""
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)  # so that no address is used twice
        return tensor

    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = tokenizer(images)
        loss = (output.reconstruction - images).square().mean() + sum(output.quantized.losses.values())
    own = {p.untyped_storage().data_ptr() for p in tokenizer.parameters()}
    loss.backward()
    gradients = {name: p.grad for name, p in tokenizer.named_parameters() if p.grad is not None}
    return sum(size for address, size in kept.items() if address not in own), gradients


@pytest.mark.parametrize("paths", [["encoder", "decoder"], ["decoder.middle"], ["decoder.middle.0"]])
def test_fewer_bytes_and_the_same_gradients(tokenizer, paths):
    other = copy.deepcopy(tokenizer)
    checkpoint_activations(other, paths)
    before, gradients = kept_bytes_and_gradients(tokenizer)
    after, again = kept_bytes_and_gradients(other)
    assert after < (0.6 if len(paths) == 2 else 0.99) * before
    assert gradients.keys() == again.keys() and len(gradients) > 20
    for name, value in gradients.items():
        assert torch.equal(again[name], value), name


def test_gradients_of_single_tensors_go_through_it(tokenizer):
    """The adaptive weight asks for that of the last layer, which torch's reentrant form refuses."""
    checkpoint_activations(tokenizer, ["decoder"])
    loss = tokenizer(torch.zeros(1, 3, 16, 16)).reconstruction.square().mean()
    (found,) = torch.autograd.grad(loss, tokenizer.last_layer)
    assert found.abs().sum() > 0


def test_names_and_classes_of_parts_stay(tokenizer):
    names = list(tokenizer.state_dict())
    kinds = [type(m) for m in tokenizer.modules()]
    checkpoint_activations(tokenizer, ["encoder", "encoder", "decoder"])  # twice is once
    assert list(tokenizer.state_dict()) == names
    assert [type(m).__name__ for m in tokenizer.modules()] == [kind.__name__ for kind in kinds]
    assert all(isinstance(m, kind) for m, kind in zip(tokenizer.modules(), kinds, strict=True))
    copy.deepcopy(tokenizer)


def test_nothing_is_computed_twice_where_no_backward_follows(tokenizer):
    checkpoint_activations(tokenizer, ["encoder", "decoder"])
    calls = []
    tokenizer.decoder.middle[0].conv1.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        tokenizer(torch.zeros(1, 3, 16, 16))
    assert len(calls) == 1
    tokenizer(torch.zeros(1, 3, 16, 16)).reconstruction.sum().backward()
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("encodr", "the tokenizer has no part 'encodr'; did you mean 'encoder'"),
        ("encoder.levls", "encoder has no part 'encoder.levls'; did you mean 'encoder.levels'"),
        ("quantizer", r"no list of blocks in it \(VQ\)"),
        ("encoder.conv_in.weight", r"no list of blocks in it \(Parameter\)"),
        ("decoder.conv_in", r"no list of blocks in it \(Conv2d\)"),
    ],
)
def test_what_has_no_blocks_is_refused_by_name(tokenizer, path, said):
    with pytest.raises(UserError, match=f"^trainer.checkpoint_activations.*{said}"):
        checkpoint_activations(tokenizer, [path])


def test_a_block_that_changes_in_its_forward_is_refused(tokenizer):
    tokenizer.decoder.middle[0].norm1 = nn.BatchNorm2d(32)
    with pytest.raises(UserError, match="BatchNorm2d changes in its forward"):
        checkpoint_activations(tokenizer, ["decoder"])
    with pytest.raises(ValueError, match=r"checkpoint_activations=encoder: a list of parts, \[encoder\]"):
        TrainerSettings(max_updates=1, checkpoint_activations="encoder")


@pytest.mark.slow
def test_compiled_it_is_one_graph_with_the_same_gradients(tokenizer):
    from torch._dynamo.testing import CompileCounterWithBackend

    plain = copy.deepcopy(tokenizer)
    for module in [*plain.modules(), *tokenizer.modules()]:
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # compiled code draws other numbers
    checkpoint_activations(tokenizer, ["encoder", "decoder"])
    counter = CompileCounterWithBackend("aot_eager")
    for part in (tokenizer.encoder, tokenizer.decoder):
        part.compile(backend=counter)
    _, expected = kept_bytes_and_gradients(plain)
    _, gradients = kept_bytes_and_gradients(tokenizer)
    assert counter.frame_count == 2, "one graph each"
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, msg=lambda m, name=name: f"{name}: {m}")
