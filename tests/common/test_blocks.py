"""The blocks of a network: items of its lists that are made of several modules, none within another."""

from torch import nn

from imtok.common.blocks import blocks_of, shared_parameters


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
        self.inner = nn.ModuleList([nn.Sequential(nn.Linear(2, 2)), nn.Identity()])


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(2, 2)
        self.levels = nn.ModuleList([nn.Sequential(Block(), nn.GELU(), Block()), nn.ModuleList([Block()])])
        self.alone = Block()
        self.by_name = nn.ModuleDict({"a": nn.Sequential(nn.Linear(2, 2)), "b": Block()})


def test_items_of_lists_outermost_first():
    net = Net()
    found = dict(blocks_of(net))
    assert list(found) == ["levels.0.0", "levels.0.2", "levels.1.0"]
    assert all(found[name] is net.get_submodule(name) for name in found)
    assert list(dict(blocks_of(net, "net."))) == [f"net.{name}" for name in found]
    assert list(blocks_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))) == [], "layers are no blocks"


def test_a_parameter_in_two_places_is_found():
    net = Net()
    assert shared_parameters(net) == set()
    net.stem.weight = net.alone.mlp[0].weight
    assert shared_parameters(net) == {id(net.stem.weight)}
