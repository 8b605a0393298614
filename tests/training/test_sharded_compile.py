"""Compiled blocks of a sharded network: compiled once, with the gradients of the plain one."""

import copy
import itertools

import pytest
import torch
import torch.distributed as dist
from torch import nn

from imtok.common.distributed import own_shard
from imtok.layers.resnet import residual_blocks
from imtok.training.compiling import compile_blocks
from imtok.training.fsdp2 import _shard_network


@pytest.fixture(autouse=True)
def _one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()
    torch._dynamo.reset()


@pytest.mark.slow
def test_blocks_are_compiled_once_and_their_gradients_stay():
    from torch._dynamo.testing import CompileCounterWithBackend

    torch.manual_seed(0)
    widths = [4 * n for n in range(1, 13)]  # more sizes than torch compiles of one code unless told so
    plain = nn.Sequential(*(residual_blocks(1, a, b)[0] for a, b in itertools.pairwise(widths)))
    network = copy.deepcopy(plain)
    counter = CompileCounterWithBackend("aot_eager")
    compile_blocks(list(network), backend=counter)
    _shard_network(network, list(network), dist.device_mesh.init_device_mesh("cpu", (1,)))
    x = torch.randn(2, 4, 8, 8)
    frames = []
    for _ in range(3):
        for module in (plain, network):
            module.zero_grad()
            module(x).square().mean().backward()
        frames.append(counter.frame_count)
        for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(own_shard(ours.grad), theirs.grad, msg=lambda m, name=name: f"{name}: {m}")
    assert frames == [len(widths) - 1] * 3
