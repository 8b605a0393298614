"""A frozen network: it moves and computes, and nothing else of its owner reaches it."""

import copy
import pickle

import pytest
import torch
from torch import nn

from imtok.common.frozen import Frozen, frozen_networks, modules_within


class Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Linear(2, 2)
        self.net = Frozen(nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.BatchNorm1d(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(self.own(x))


def test_it_moves_with_its_owner() -> None:
    owner = Owner()
    owner.double()
    assert owner.net.module[0].weight.dtype == owner.net.module[2].running_mean.dtype == torch.float64
    assert owner(torch.randn(4, 2, dtype=torch.float64)).dtype == torch.float64
    owner.to("meta")
    assert all(t.is_meta for t in (*owner.net.module.parameters(), *owner.net.module.buffers()))


def test_it_is_in_no_state_dict_and_no_optimizer() -> None:
    owner = Owner()
    assert set(owner.state_dict()) == {"own.weight", "own.bias"}
    assert {name for name, _ in owner.named_parameters()} == {"own.weight", "own.bias"}
    assert not list(owner.buffers())
    owner.load_state_dict(owner.state_dict(), strict=True)
    owner(torch.randn(4, 2)).square().sum().backward()
    assert owner.own.weight.grad is not None  # gradients pass through it
    assert all(p.grad is None and not p.requires_grad for p in owner.net.module.parameters())
    owner.requires_grad_(True)
    assert not any(p.requires_grad for p in owner.net.module.parameters())


def test_it_stays_in_eval_mode() -> None:
    owner, x = Owner().train(), torch.randn(4, 2)
    before = owner.net.module[2].running_mean.clone()
    assert owner.training and not owner.net.training and not owner.net.module[1].training
    assert torch.equal(owner(x), owner(x)) and torch.equal(owner.net.module[2].running_mean, before)
    assert owner.net.train() is owner.net and not owner.net.module.training
    assert not Frozen(nn.Dropout(0.5).train()).module.training  # whatever it was before


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda owner: pickle.loads(pickle.dumps(owner))])
def test_copies_have_a_network_of_their_own(clone) -> None:
    owner = Owner()
    copied, x = clone(owner), torch.randn(4, 2)
    assert torch.equal(copied(x), owner(x))
    owner.net.module[0].weight.data.zero_()
    assert not torch.equal(copied(x), owner(x))


def test_attributes_are_the_networks() -> None:
    net = Frozen(nn.Linear(2, 5))
    assert net.out_features == 5 and net.weight is net.module.weight
    with pytest.raises(AttributeError, match="nothing"):
        _ = net.nothing


def test_walks() -> None:
    owner, outer = Owner(), nn.Module()
    outer.inner = Frozen(owner)
    assert frozen_networks(owner) == [owner.net.module] and frozen_networks(outer) == [owner]
    assert {owner, owner.net.module, owner.net.module[2]} <= set(modules_within(outer))
