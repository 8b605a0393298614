"""PCA-reweighted VQ against torch's own covariance and a hand-made search."""

import pytest
import torch

from imtok.common.types import Stream
from imtok.tokenizers.quantizers.pca_vq import PCAVQ

SPREADS = torch.tensor([5.0, 3.0, 1.0, 0.1, 0.01])


def features(count: int) -> torch.Tensor:
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(3)))[0]
    return (torch.randn(count, 5) * SPREADS) @ turn.T + torch.arange(5.0)


def test_fit_finds_mean_basis_and_weights() -> None:
    vq, x = PCAVQ(dim=5, codebook_size=16), features(4000)
    vq.fit(x.split(700))
    values = torch.linalg.eigvalsh(x.T.cov(correction=0).double()).flip(0)
    torch.testing.assert_close(vq.mean, x.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(vq.scale, (values / values[0]).sqrt().clamp(min=1e-2).float(), rtol=1e-3, atol=1e-4)
    projected = (x - vq.mean) @ vq.basis
    torch.testing.assert_close(projected.T.cov(correction=0).diagonal().double(), values, rtol=1e-3, atol=1e-4)


def test_search_is_in_the_weighted_space_and_codes_come_back() -> None:
    vq, x = PCAVQ(dim=5, codebook_size=64), features(500)
    vq.fit([x])
    with torch.no_grad():
        vq.codebook.copy_(torch.randn(64, 5) * vq.scale * SPREADS)
    out = vq.eval()({"main": Stream(x[None])})
    weighted = (x - vq.mean) @ vq.basis * vq.scale
    chosen = torch.cdist(weighted, vq.codebook).argmin(dim=1)
    assert torch.equal(out.indices["main"][0, :, 0], chosen)
    expected = (vq.codebook[chosen] / vq.scale) @ vq.basis.T + vq.mean
    torch.testing.assert_close(out.codes["main"].x_BND[0], expected)


def test_dropped_components_keep_their_mean_and_send_no_gradient() -> None:
    vq, x = PCAVQ(dim=5, codebook_size=64, components=2, weighting="none"), features(500)
    vq.fit([x])
    z = x[None].clone().requires_grad_()
    out = vq({"main": Stream(z)})
    assert vq.codebook.shape == (64, 2)
    outside = torch.eye(5) - vq.basis @ vq.basis.T
    assert float(((out.codes["main"].x_BND - vq.mean) @ outside).detach().abs().max()) < 1e-4
    probe = torch.randn(1, 500, 5)
    grad = torch.autograd.grad((out.codes["main"].x_BND * probe).sum(), z)[0]
    torch.testing.assert_close(grad, probe @ vq.basis @ vq.basis.T, rtol=1e-4, atol=1e-4)


def test_the_basis_settles_while_training() -> None:
    vq = PCAVQ(dim=5, codebook_size=64, fit_updates=6)
    bases = []
    for _ in range(9):
        vq({"main": Stream(features(300)[None])})
        bases.append(vq.basis.clone())
    assert not torch.equal(bases[0], bases[5])
    assert torch.equal(bases[5], bases[8])
    assert int(vq.fitted) == 6


@pytest.mark.parametrize("settings", [{"components": 6}, {"fit_updates": -1}])
def test_impossible_settings(settings) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        PCAVQ(dim=5, **settings)


def test_a_basis_fitted_in_training_takes_no_micro_batches() -> None:
    assert PCAVQ(dim=4).micro_batch_misfit() is None
    assert "fit_updates=2" in str(PCAVQ(dim=4, fit_updates=2).micro_batch_misfit())


def test_a_basis_that_was_fitted_is_not_fitted_again() -> None:
    vq = PCAVQ(dim=5, codebook_size=64, fit_updates=4).train()
    vq.fit([features(300)])
    before = vq.basis.clone()
    vq({"main": Stream(10 * torch.randn(1, 300, 5))})
    assert torch.equal(vq.basis, before) and int(vq.fitted) == 4
    untouched = PCAVQ(dim=5, codebook_size=64, components=3).train()
    untouched({"main": Stream(features(300)[None])})
    assert torch.equal(untouched.basis, torch.eye(5)[:, :3]) and not untouched.moments_count
