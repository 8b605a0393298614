"""An update that is not finite is undone and counted; the cause that is named is the first one."""

import pytest
import torch
from torch import nn

from imtok.training.optim.nonfinite import NonFiniteGuard, advice, find_cause

GOOD, BAD = torch.tensor(1.0), torch.tensor(float("nan"))


def a_net() -> nn.Module:
    net = nn.Linear(2, 2)
    net.register_buffer("mean", torch.zeros(3))
    return net


def test_a_bad_update_puts_the_buffers_back_and_is_counted():
    net, other = a_net(), a_net()
    guard = NonFiniteGuard(limit=2, networks=(net, None, other))
    guard.begin()
    for part in (net, other):
        part.mean += 1
    assert guard.passes([GOOD], {"l1": GOOD}, net.named_parameters())
    assert net.mean.tolist() == other.mean.tolist() == [1.0] * 3 and guard.skipped == 0
    guard.begin()
    net.mean += 5
    assert not guard.passes([GOOD], {"l1": BAD, "l2": GOOD}, net.named_parameters())
    assert net.mean.tolist() == [1.0] * 3, "as at the beginning of this update"
    assert (guard.skipped, guard.in_a_row, guard.exhausted) == (1, 1, False)
    assert guard.first_cause == "the loss l1"
    assert not guard.passes([BAD], {"l1": GOOD}, net.named_parameters())
    assert (guard.skipped, guard.in_a_row, guard.exhausted) == (2, 2, True)
    assert guard.first_cause == "the loss l1", "of the first in the row"
    assert guard.passes([GOOD], {}, []) and not guard.exhausted and guard.skipped == 2
    assert not guard.passes([GOOD], {"lpips": BAD}, []) and guard.first_cause == "the loss lpips"
    assert (guard.skipped, guard.in_a_row) == (3, 1)


def test_networks_without_buffers():
    guard = NonFiniteGuard(limit=1, networks=(nn.Linear(1, 1),))
    guard.begin()
    assert not guard.passes([BAD], {}, []) and guard.exhausted and guard.first_cause == "a number on another rank"


def test_the_cause_is_a_loss_or_the_first_bad_gradient():
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 1))
    net[0].weight.grad = torch.ones(1, 1)
    net[1].weight.grad = torch.tensor([[float("inf")]])
    net[2].weight.grad = torch.tensor([[float("nan")]])
    assert find_cause({"l1": GOOD}, net.named_parameters()) == "the gradient of 1.weight"
    assert find_cause({"l1": BAD, "l2": GOOD, "kl": BAD}, net.named_parameters()) == "the loss l1, kl"


@pytest.mark.parametrize("gan", [{}, {"gan_weight": torch.tensor(1234.0)}])
def test_advice_names_the_numbers_and_keeps_the_batch(tmp_path, gan):
    guard = NonFiniteGuard(limit=3, networks=())
    guard.in_a_row, guard.first_cause = 3, "the loss l1"
    batch = {"image": torch.ones(2, 3), "key": ["a", "b"]}
    facts = {"precision": "bf16", "lr": 1e-4} | gan
    said = advice(guard, batch, facts=facts, save_to=tmp_path / "batch.pt")
    assert said.startswith("3 updates in a row were not finite (trainer.max_nonfinite=3); first the loss l1;")
    assert ("gan_weight=1.23e+03," in said) == bool(gan) and "precision=bf16, lr=0.0001; the last batch is in" in said
    saved = torch.load(tmp_path / "batch.pt")
    assert torch.equal(saved["image"], batch["image"]) and saved["key"] == ["a", "b"]
    assert "the batch could not be saved" in advice(guard, batch, facts=facts, save_to=tmp_path / "no" / "batch.pt")
