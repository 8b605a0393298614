"""Two processes: means are common, so parameters and weights stay equal."""

import os
import subprocess
import sys

import pytest
import torch

from imtok.common.distributed import mean_over_ranks

WORKER = """
import torch, torch.distributed as dist
from imtok.losses.adversarial.actnorm import ActNorm
from imtok.losses.adversarial.lecam import LeCam
dist.init_process_group("gloo")
rank = dist.get_rank()
both = torch.randn(2, 4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 2 + 1
norm, lecam = ActNorm(3), LeCam(decay=0.0)
norm(both[rank])
lecam(both[rank, :, 0], -both[rank, :, 1], update=0)
everything = both.flatten(0, 1)
torch.testing.assert_close(norm.loc.detach(), -everything.mean((0, 2, 3), keepdim=True))
same = [torch.zeros(8) for _ in range(2)]
means = torch.stack([lecam.ema_real, lecam.ema_fake])
mine = torch.cat([norm.loc.detach().flatten(), norm.scale.detach().flatten(), means])
dist.all_gather(same, mine)
assert torch.equal(same[0], same[1]), same
torch.testing.assert_close(lecam.ema_real, everything[:, 0].mean())
torch.testing.assert_close(lecam.ema_fake, -everything[:, 1].mean())
torch.testing.assert_close(norm(everything).std((0, 2, 3)), torch.ones(3), atol=0.05, rtol=0)
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    environment["MASTER_PORT"] = str(29500 + os.getpid() % 2000)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER], env=environment | {"RANK": str(rank)}, stderr=subprocess.PIPE, cwd=tmp_path
        )
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()[-2000:]


def test_one_process_gives_the_value_without_gradient():
    x = torch.ones(2, requires_grad=True) * 3
    assert mean_over_ranks(x).tolist() == [3, 3] and not mean_over_ranks(x).requires_grad
