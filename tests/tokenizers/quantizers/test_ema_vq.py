"""EMA codebooks against the running-mean formulas of VQ-VAE-2, and against the library's own search."""

import torch
import torch.nn.functional as F

from imtok.tokenizers.quantizers.ema_vq import EmaVQ
from imtok.tokenizers.types import Stream


def test_one_update_is_the_running_mean() -> None:
    vq = EmaVQ(dim=4, codebook_size=8, decay=0.9, revive_below=0)
    before, z = vq.vq.codebook.clone(), torch.randn(1, 200, 4)
    indices = vq({"main": Stream(z)}).indices["main"][0, :, 0]
    one_hot = F.one_hot(indices, 8).float()
    counts = 0.9 * torch.ones(8) + 0.1 * one_hot.sum(0)
    sums = 0.9 * before + 0.1 * one_hot.T @ z[0]
    smoothed = (counts + 1e-5) / (counts.sum() + 8 * 1e-5) * counts.sum()
    torch.testing.assert_close(vq.vq.codebook, sums / smoothed[:, None])


def test_search_agrees_with_the_library() -> None:
    for unit_length in (False, True):
        vq = EmaVQ(dim=4, codebook_size=32, unit_length=unit_length).eval()
        z = torch.randn(2, 100, 4)
        ours = vq({"main": Stream(z)})
        theirs_codes, theirs_indices, _ = vq.vq(z)
        assert torch.equal(ours.indices["main"][..., 0], theirs_indices)
        torch.testing.assert_close(ours.codes["main"].x_BND, theirs_codes)


def test_codebook_moves_in_training_only() -> None:
    vq = EmaVQ(dim=4, codebook_size=8).eval()
    before = vq.vq.codebook.clone()
    vq({"main": Stream(torch.randn(1, 50, 4))})
    vq.train()
    with torch.no_grad():
        vq({"main": Stream(torch.randn(1, 50, 4))})
    assert torch.equal(vq.vq.codebook, before)
    vq({"main": Stream(torch.randn(1, 50, 4))})
    assert not torch.equal(vq.vq.codebook, before)


def test_backward_after_the_codebook_moved() -> None:
    vq, z = EmaVQ(dim=4, codebook_size=8, kmeans_init=True), torch.randn(1, 50, 4, requires_grad=True)
    out = vq({"main": Stream(z)})
    (out.losses["commit"] + out.codes["main"].x_BND.sum()).backward()
    assert bool(torch.isfinite(z.grad).all())


def test_revival_ends_a_collapse() -> None:
    vq = EmaVQ(dim=4, codebook_size=32, decay=0.5, revive_below=1.0)
    z = torch.randn(1, 512, 4)
    with torch.no_grad():
        vq.vq._codebook.embed.fill_(100.0)
        vq.vq._codebook.embed_avg.fill_(100.0)
    for _ in range(8):
        used = vq({"main": Stream(z)}).indices["main"].unique().numel()
    assert used > 24
