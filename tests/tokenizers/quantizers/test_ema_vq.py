"""EMA codebooks against the running-mean formulas of VQ-VAE-2, and against vector-quantize-pytorch's own training."""

import pytest
import torch
import torch.nn.functional as F
from vector_quantize_pytorch import VectorQuantize

from imtok.common.types import Stream
from imtok.tokenizers.quantizers.ema_vq import EmaVQ


def test_one_update_is_the_running_mean() -> None:
    vq = EmaVQ(dim=4, codebook_size=8, decay=0.9)
    before, z = vq.codebook.clone(), torch.randn(1, 200, 4)
    indices = vq({"main": Stream(z)}).indices["main"][0, :, 0]
    one_hot = F.one_hot(indices, 8).float()
    counts = 0.9 * torch.ones(8) + 0.1 * one_hot.sum(0)
    sums = 0.9 * before + 0.1 * one_hot.T @ z[0]
    smoothed = (counts + 1e-5) / (counts.sum() + 8 * 1e-5) * counts.sum()
    torch.testing.assert_close(vq.codebook, sums / smoothed[:, None])


@pytest.mark.parametrize("unit_length", [False, True])
def test_ten_updates_equal_the_library(unit_length: bool) -> None:
    ours = EmaVQ(dim=4, codebook_size=32, unit_length=unit_length, decay=0.9)
    theirs = VectorQuantize(
        dim=4, codebook_size=32, decay=0.9, use_cosine_sim=unit_length, rotation_trick=False, commitment_weight=1.0
    )
    book = theirs._codebook
    for theirs_buffer, start in [(book.embed, ours.codebook), (book.embed_avg, ours.sums)]:
        theirs_buffer.data.copy_(start[None])
    book.cluster_size.data.fill_(1.0)
    for _ in range(10):
        z = torch.randn(2, 100, 4)
        out, (codes, indices, _) = ours({"main": Stream(z)}), theirs(z)
        assert torch.equal(out.indices["main"][..., 0], indices)
        torch.testing.assert_close(out.codes["main"].x_BND, codes, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.codebook, theirs.codebook, rtol=1e-4, atol=1e-5)


def test_codebook_moves_in_training_only() -> None:
    vq = EmaVQ(dim=4, codebook_size=8).eval()
    before = vq.codebook.clone()
    vq({"main": Stream(torch.randn(1, 50, 4))})
    vq.train()
    with torch.no_grad():
        vq({"main": Stream(torch.randn(1, 50, 4))})
    assert torch.equal(vq.codebook, before)
    vq({"main": Stream(torch.randn(1, 50, 4))})
    assert not torch.equal(vq.codebook, before)


def test_backward_after_the_codebook_moved() -> None:
    vq = EmaVQ(dim=4, codebook_size=8, kmeans_init=True, entropy_temperature=1.0)
    z = torch.randn(1, 50, 4, requires_grad=True)
    out = vq({"main": Stream(z)})
    (out.losses["commit"] + out.losses["entropy"] + out.codes["main"].x_BND.sum()).backward()
    assert bool(torch.isfinite(z.grad).all())


def test_kmeans_start_finds_the_clusters() -> None:
    centres = torch.randn(8, 4) * 10
    z = centres.repeat_interleave(40, dim=0) + torch.randn(320, 4) * 0.01
    vq = EmaVQ(dim=4, codebook_size=24, kmeans_init=True)
    vq({"main": Stream(z[None])})
    assert float(torch.cdist(centres, vq.codebook).amin(dim=1).median()) < 0.1
    assert bool(vq.started)


@pytest.mark.parametrize("unit_length", [False, True])
def test_revival_ends_a_collapse(unit_length: bool) -> None:
    vq = EmaVQ(dim=4, codebook_size=32, decay=0.5, usage_decay=0.5, revive_below=0.2, unit_length=unit_length)
    z = torch.randn(1, 512, 4)
    vq.codebook.fill_(0.5)
    vq.sums.fill_(0.5)
    for _ in range(8):
        used = vq({"main": Stream(z)}).indices["main"].unique().numel()
    assert used > 24


def test_no_one_hot_table_is_built() -> None:
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                largest = max(largest, tensor.numel() if isinstance(tensor, torch.Tensor) else 0)
            return out

    vq = EmaVQ(dim=4, codebook_size=2**14, revive_below=0.1, entropy_temperature=1.0)
    with Watch():
        vq({"main": Stream(torch.randn(1, 2048, 4))})
    assert largest <= 2**18  # the whole table would be 2**25


def test_bad_batches_teach_nothing() -> None:
    vq, z = EmaVQ(dim=4, codebook_size=8, revive_below=0.9, kmeans_init=True), torch.randn(1, 50, 4)
    z[0, 3, 1] = float("inf")
    before = {name: value.clone() for name, value in vq.state_dict().items()}
    vq({"main": Stream(z)})
    assert all(torch.equal(value, before[name]) for name, value in vq.state_dict().items())
