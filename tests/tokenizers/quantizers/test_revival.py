"""Revival: who gets which vector of the batch, on one process and on two."""

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from imtok.common.types import Stream
from imtok.tokenizers.quantizers.ema_vq import EmaVQ
from imtok.tokenizers.quantizers.residual_vq import ResidualVQ
from imtok.tokenizers.quantizers.shared.revival import Revival, vectors_for
from imtok.tokenizers.quantizers.vq import VQ


def rows_of(vectors: Tensor, batch: Tensor) -> list[int]:
    """Which row of the batch each vector is."""
    distance = (vectors[:, None] - batch).norm(dim=2)
    assert float(distance.min(dim=1).values.max()) < 1e-5
    return distance.argmin(dim=1).tolist()


def test_dead_codes_get_vectors_of_the_batch_and_none_twice() -> None:
    z, dead = torch.randn(50, 3), torch.rand(20) < 0.5
    given, vectors = vectors_for(dead, z)
    assert torch.equal(given, dead)
    rows = rows_of(vectors[given], z)
    assert len(set(rows)) == len(rows) == int(dead.sum())
    assert not vectors_for(torch.zeros(20, dtype=torch.bool), z)[0].any()


def test_every_vector_is_as_likely_and_so_is_every_code_where_vectors_are_few() -> None:
    z, dead = torch.randn(12, 3), torch.tensor([True, False, True, True])
    drawn = torch.zeros(12)
    for _ in range(2000):
        drawn[rows_of(vectors_for(dead, z)[1][dead], z)] += 1
    assert float((drawn - 500).square().sum() / 500) < 31  # chi square with 11 degrees of freedom, 1 in 1000
    served, dead = torch.zeros(10), torch.arange(10) < 8
    for _ in range(2000):
        given, vectors = vectors_for(dead, z[:3])
        assert int(given.sum()) == 3 and not (given & ~dead).any()
        assert sorted(rows_of(vectors[given], z[:3])) == [0, 1, 2]
        served += given
    assert float((served[:8] - 750).square().sum() / 750) < 25


def test_repeated_vectors_differ_a_little() -> None:
    z, dead = torch.randn(3, 4), torch.ones(20, dtype=torch.bool)
    given, vectors = vectors_for(dead, z, repeat=True)
    assert given.all()
    apart = torch.cdist(vectors, z)
    counts = torch.bincount(apart.argmin(dim=1), minlength=3)
    assert sorted(counts.tolist()) == [6, 7, 7]
    nearest = (vectors - z[apart.argmin(dim=1)]).abs()
    assert float(nearest.max()) <= 0.01 / 2 + 1e-6  # 0.01 / sqrt(width)
    assert len(vectors.unique(dim=0)) == 20
    assert not vectors_for(dead, z[:0], repeat=True)[0].any()  # no token, nothing to give


def test_a_bad_batch_revives_nothing() -> None:
    revival, codes, z = Revival(codebook_size=8, below=0.9, decay=0.0), torch.randn(8, 4), torch.randn(5, 4)
    z[2, 1] = float("inf")
    dead, after = revival.revived(codes, z, torch.zeros(5, dtype=torch.int64))
    assert not dead.any()
    assert torch.equal(after, codes)
    assert torch.equal(revival.usage, torch.ones(8))


def test_clustering_from_no_counts_puts_unused_codes_on_data_at_once() -> None:
    vq = VQ(dim=4, codebook_size=64, reset="clustering", usage_decay=0.99, usage_start=0.0)
    before, z = vq.codebook.detach().clone(), 10 + torch.randn(1, 100, 4)
    used = vq({"main": Stream(z)}).indices["main"].unique()
    unused = torch.ones(64, dtype=torch.bool).index_fill(0, used, False)
    assert int(unused.sum()) > 40
    nearest = z[0][torch.cdist(before, z[0]).argmin(dim=1)]
    alpha = torch.exp(torch.tensor(-1e-3))
    torch.testing.assert_close(vq.codebook.detach()[unused], torch.lerp(before, nearest, alpha)[unused])
    late = VQ(dim=4, codebook_size=64, reset="clustering", usage_decay=0.99)
    late.codebook.data.copy_(before)
    late({"main": Stream(z)})
    assert torch.equal(late.codebook.detach()[unused], before[unused])  # from even counts, nothing for 500 updates


def test_ema_from_no_counts_restarts_all_codes_with_the_mass_of_a_token() -> None:
    """RQ-VAE's rule: running counts below 1 are set to 1, their sums to a vector of the batch."""
    vq = EmaVQ(dim=4, codebook_size=16, revive_below_tokens=1.0, start_counts=0.0)
    z = torch.randn(1, 80, 4)
    vq({"main": Stream(z)})  # 0.01 of 80 tokens: all are below 1
    assert torch.equal(vq.counts, torch.ones(16))
    assert len(set(rows_of(vq.sums, z[0]))) == 16
    torch.testing.assert_close(vq.codebook, vq.sums, rtol=1e-4, atol=1e-4)
    counts, sums = vq.counts.clone(), vq.sums.clone()
    indices = vq({"main": Stream(z)}).indices["main"].flatten()
    tokens = torch.bincount(indices, minlength=16).float()
    kept = 0.99 * counts + 0.01 * tokens >= 1
    assert torch.equal(kept, tokens >= 1)
    expected = torch.where(kept, 0.99 + 0.01 * tokens, 1.0)
    torch.testing.assert_close(vq.counts, expected)
    summed = torch.zeros(16, 4).index_add(0, indices, z[0])
    torch.testing.assert_close(vq.sums[kept], (0.99 * sums + 0.01 * summed)[kept])
    smoothed = (expected + 1e-5) / (expected.sum() + 16e-5) * expected.sum()
    torch.testing.assert_close(vq.codebook, vq.sums / smoothed[:, None])


def test_codes_that_have_no_mass_stay_where_they_are() -> None:
    vq = EmaVQ(dim=4, codebook_size=64, start_counts=0.0)
    before = vq.codebook.clone()
    used = vq({"main": Stream(10 + torch.randn(1, 5, 4))}).indices["main"].unique()
    moved = (vq.codebook != before).any(dim=1)
    assert torch.equal(moved.nonzero()[:, 0], used)
    assert bool(torch.isfinite(vq.codebook).all())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start_counts": -1.0}, "start_counts=-1.0: a number of 0 or more"),
        ({"revive_below_tokens": 1.0, "revive_below": 0.1}, "set revive_below to 0"),
        ({"update": "gradient", "revive_below_tokens": 1.0}, "revive_below_tokens=1.0: .*only update=ema"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResidualVQ(**({"dim": 4, "update": "ema"} | settings))


WORKER = """
import sys, torch, torch.distributed as dist
from imtok.tokenizers.quantizers.shared.revival import clustering_reset, vectors_for
from imtok.tokenizers.quantizers.multi_scale_bsq import MultiScaleBSQ
from imtok.common.types import Stream
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
given, saved = torch.load(f"{folder}/given.pt"), {}
z = given["z"]
torch.manual_seed(rank)
saved["equal"] = vectors_for(given["dead"], z[:20] if rank == 0 else z[20:40])
saved["unequal"] = vectors_for(given["dead"], z[:20] if rank == 0 else z[20:27])
saved["one has none"] = vectors_for(given["dead"], z[:20] if rank == 0 else z[:0])
saved["first has none"] = vectors_for(given["dead"], z[:0] if rank == 0 else z[:20])
saved["clustering"] = clustering_reset(given["codes"], z[:31] if rank == 0 else z[31:], given["usage"], 0.99)
real, calls = dist.all_reduce, []
dist.all_reduce = lambda tensor, *a, **k: (calls.append(tensor.numel()), real(tensor, *a, **k))[1]
quantizer = MultiScaleBSQ(dim=6, bits=6, scales=[1, 2, 4], quantizer_dropout=0.5).train()
out = quantizer({"main": Stream(torch.randn(4, 16, 6, requires_grad=True), (4, 4))})
saved["forward"] = len(calls)
out.losses["entropy"].backward()
saved["both"] = len(calls)
torch.save(saved, f"{folder}/{rank}.pt")
"""


def test_two_processes_give_of_both_and_end_alike(tmp_path) -> None:
    z, codes, usage = torch.randn(40, 3), torch.randn(16, 3), torch.rand(16) * 1e-3
    dead = torch.arange(16) % 2 == 0
    torch.save({"z": z, "dead": dead, "codes": codes, "usage": usage}, tmp_path / "given.pt")
    command = [sys.executable, "-c", WORKER]
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], stderr=subprocess.PIPE, cwd=tmp_path) for rank in (0, 1)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()[-2000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name in ("equal", "unequal", "one has none", "first has none"):
        assert torch.equal(first[name][0], second[name][0]), name
        assert torch.equal(first[name][1], second[name][1]), name
    torch.manual_seed(0)
    alone = vectors_for(dead, z)
    assert torch.equal(first["equal"][0], alone[0]) and torch.equal(first["equal"][1][dead], alone[1][dead])
    rows = rows_of(first["equal"][1][dead], z)
    assert len(set(rows)) == 8 and {row // 20 for row in rows} == {0, 1}
    assert max(rows_of(first["unequal"][1][first["unequal"][0]], z)) < 27
    given, vectors = first["one has none"]
    assert 0 < int(given.sum()) <= 8 and len(set(rows_of(vectors[given], z[:20]))) == int(given.sum())
    assert not first["first has none"][0].any()
    nearest = z[torch.cdist(codes, z).argmin(dim=1)]
    alpha = torch.exp(-10 * usage / 0.01 - 1e-3)[:, None]
    for result in (first, second):
        torch.testing.assert_close(result["clustering"], (1 - alpha) * codes + alpha * nearest)
        assert (result["forward"], result["both"]) == (1, 2)  # all scales' entropies in one exchange each way
