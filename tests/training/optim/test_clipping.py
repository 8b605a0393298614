"""The norm of whole and of sharded gradients, and clipping to it, against torch's."""

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from imtok.common.distributed import is_sharded, own_shard
from imtok.training.optim.clipping import scale_down, total_norm
from imtok.training.optim.optimizers import parameter_groups
from imtok.training.optim.stepper import Network, Stepper

pytestmark = pytest.mark.usefixtures("one_process_group")


def network(*, sharded: bool) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(5, 4), nn.Linear(4, 2))
    if sharded:
        fully_shard(made[2], mesh=dist.device_mesh.init_device_mesh("cpu", (1,)), reshard_after_forward=True)
    return made


def backward(module: nn.Module) -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    module(x).square().sum().backward()


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("largest", [0.1, 1e6])
def test_as_torch_does_it(sharded, largest):
    plain, own = network(sharded=False), network(sharded=sharded)
    backward(plain)
    backward(own)
    gradients = [p.grad for p in own.parameters()]
    assert sum(map(is_sharded, gradients)) == (2 if sharded else 0)
    expected = torch.nn.utils.clip_grad_norm_(plain.parameters(), largest)
    norm = total_norm(gradients)
    torch.testing.assert_close(norm, expected)
    scale_down(gradients, norm=norm, largest=largest)
    for ours, theirs in zip(gradients, plain.parameters(), strict=True):
        torch.testing.assert_close(own_shard(ours), theirs.grad)


def test_states_of_sharded_and_whole_parameters_have_the_same_numbers():
    """Each of the steppers goes on with the other's state, and ends where it would have with its own."""
    node = {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}
    plain, own = network(sharded=False), network(sharded=True)

    def stepper(module: nn.Module) -> Stepper:
        return Stepper(Network(node=node, modules=[module]), max_updates=9, clip=None, scaler=None)

    steppers = {module: stepper(module) for module in (plain, own)}
    assert len(steppers[plain].optimizer.param_groups) == 2 and len(steppers[own].optimizer.param_groups) == 4
    for module, one in steppers.items():
        backward(module)
        one.optimizer.step()
    states = [steppers[module].state_dict()["optimizer"] for module in (plain, own)]
    groups = [[group["params"] for group in state["param_groups"]] for state in states]
    assert groups[0] == groups[1] == [[0, 1, 2], [3, 4, 5, 6, 7]]
    for number, values in states[0]["state"].items():
        for key, value in values.items():
            torch.testing.assert_close(own_shard(states[1]["state"][number][key]), value)
    again = stepper(own)
    again.load_state_dict(copy.copy(steppers[own].state_dict()))
    for parameter in own.parameters():
        assert torch.equal(
            own_shard(again.optimizer.state[parameter]["exp_avg"]),
            own_shard(steppers[own].optimizer.state[parameter]["exp_avg"]),
        )
    assert [len(g["params"]) for g in parameter_groups([own], weight_decay=0.1)] == [3, 5], "split later"
