"""Gradient-trained VQ against hand formulas."""

import pytest
import torch
import torch.nn.functional as F

from imtok.common.types import Stream
from imtok.tokenizers.quantizers.shared.straight_through import rotate_to
from imtok.tokenizers.quantizers.vq import VQ


def run(vq: VQ, z: torch.Tensor):
    return vq({"main": Stream(z)})


def test_losses_and_their_gradients_go_one_way_each() -> None:
    vq, z = VQ(dim=4, codebook_size=16), torch.randn(2, 10, 4, requires_grad=True)
    out = run(vq, z)
    chosen = vq.codebook[out.indices["main"][..., 0]]
    assert torch.equal(out.losses["codebook"], F.mse_loss(chosen, z))
    out.losses["codebook"].backward(retain_graph=True)
    assert z.grad is None or float(z.grad.abs().sum()) == 0
    assert float(vq.codebook.grad.abs().sum()) > 0
    vq.codebook.grad = None
    out.losses["commit"].backward(retain_graph=True)
    torch.testing.assert_close(z.grad, 2 * (z - chosen).detach() / z.numel())
    assert vq.codebook.grad is None


def test_gradient_passes_straight_through() -> None:
    vq, z = VQ(dim=4, codebook_size=16), torch.randn(2, 10, 4, requires_grad=True)
    weight = torch.randn(2, 10, 4)
    (run(vq, z).codes["main"].x_BND * weight).sum().backward()
    torch.testing.assert_close(z.grad, weight)


def test_unit_length_codes() -> None:
    vq = VQ(dim=8, codebook_size=32, unit_length=True).eval()
    with torch.no_grad():
        vq.codebook.mul_(torch.rand(32, 1) * 5)  # lengths must not matter
    z = torch.randn(1, 50, 8) * 10
    out = run(vq, z)
    cosine = F.normalize(z[0], dim=-1) @ F.normalize(vq.codebook, dim=-1).T
    assert torch.equal(out.indices["main"][0, :, 0], cosine.argmax(dim=-1))
    torch.testing.assert_close(out.codes["main"].x_BND.norm(dim=-1), torch.ones(1, 50))


def test_projection_only_where_widths_differ() -> None:
    vq = VQ(dim=32, code_dim=8, codebook_size=16)
    out = run(vq, torch.randn(1, 5, 32))
    assert out.codes["main"].x_BND.shape == (1, 5, 32)
    assert vq.codebook.shape == (16, 8)
    assert not list(VQ(dim=8, codebook_size=16).project_in.parameters())


def test_dead_codes_are_put_on_vectors_of_the_batch() -> None:
    vq = VQ(dim=4, codebook_size=64, revive_below=0.5, usage_decay=0.5)
    z = torch.randn(1, 512, 4)
    with torch.no_grad():
        vq.codebook.fill_(100.0)
        vq.codebook[0] = 0.0  # everything falls on one code
    used = []
    for _ in range(6):
        used.append(run(vq, z).indices["main"].unique().numel())
    assert used[0] == 1
    assert used[-1] > 40
    assert bool(torch.isfinite(vq.codebook).all())


def test_nothing_is_revived_in_eval_or_without_gradients() -> None:
    vq = VQ(dim=4, codebook_size=64, revive_below=0.5)
    before = vq.codebook.clone()
    vq.eval()
    run(vq, torch.randn(1, 100, 4))
    vq.train()
    with torch.no_grad():
        run(vq, torch.randn(1, 100, 4))
    assert torch.equal(vq.codebook, before)
    assert torch.equal(vq.revival.usage, torch.ones(64))


def test_revival_with_unit_length_leaves_the_backward_pass_whole() -> None:
    vq = VQ(dim=4, codebook_size=64, unit_length=True, revive_below=0.9, usage_decay=0.1, entropy_temperature=0.1)
    before, z = vq.codebook.detach().clone(), torch.randn(1, 20, 4, requires_grad=True)
    out = run(vq, z)
    sum(out.losses.values()).backward()
    assert not torch.equal(vq.codebook, before)
    assert bool(torch.isfinite(vq.codebook.grad).all())


@pytest.mark.parametrize("settings", [{"revive_below": 0.9}, {"reset": "clustering"}])
def test_bad_batches_teach_nothing(settings) -> None:
    vq, z = VQ(dim=4, codebook_size=8, **settings), torch.randn(1, 50, 4)
    z[0, 3, 1] = float("nan")
    before = vq.codebook.detach().clone()
    run(vq, z)
    assert torch.equal(vq.codebook, before)
    assert torch.equal(vq.revival.usage, torch.ones(8))


def test_clustering_reset_is_the_published_formula() -> None:
    vq, z = VQ(dim=4, codebook_size=8, reset="clustering", usage_decay=0.9), torch.randn(1, 50, 4)
    before = vq.codebook.detach().clone()
    indices = run(vq, z).indices["main"].flatten()
    p = 0.9 * torch.full((8,), 1 / 8) + 0.1 * torch.bincount(indices, minlength=8) / 50
    alpha = torch.exp(-10 * 8 * p / (1 - 0.9) - 1e-3)[:, None]
    closest = z[0][torch.cdist(before, z[0]).argmin(dim=1)]
    torch.testing.assert_close(vq.codebook.detach(), (1 - alpha) * before + alpha * closest)


def test_clustering_reset_ends_a_collapse() -> None:
    vq, z = VQ(dim=4, codebook_size=64, reset="clustering", usage_decay=0.5), torch.randn(1, 512, 4)
    with torch.no_grad():
        vq.codebook.copy_(100 + torch.randn(64, 4))
        vq.codebook[0] = 0.0
    used = [run(vq, torch.randn(1, 512, 4)).indices["main"].unique().numel() for _ in range(40)]
    assert used[0] == 1
    assert used[-1] > 10
    assert bool(torch.isfinite(run(vq, z).codes["main"].x_BND).all())


def test_rotation_trick_equals_the_library() -> None:
    from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to as theirs

    vq = VQ(dim=6, codebook_size=16, rotation_trick=True)
    z, probe = torch.randn(2, 10, 6, requires_grad=True), torch.randn(2, 10, 6)
    out = run(vq, z)
    codes = vq.codebook[out.indices["main"][..., 0]].detach()
    torch.testing.assert_close(out.codes["main"].x_BND, codes, rtol=0, atol=1e-6)
    grad = torch.autograd.grad((out.codes["main"].x_BND * probe).sum(), z)[0]
    torch.testing.assert_close(grad, torch.autograd.grad((theirs(z, codes) * probe).sum(), z)[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(grad, probe)


def test_rotation_trick_survives_opposite_vectors() -> None:
    vq = VQ(dim=2, codebook_size=2, rotation_trick=True)
    with torch.no_grad():
        vq.codebook.copy_(torch.tensor([[-1.0, 0.0], [-1.0, 0.0]]))
    z = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]], requires_grad=True)
    run(vq, z).codes["main"].x_BND.sum().backward()
    assert bool(torch.isfinite(z.grad).all())


def test_entropy_is_a_loss_only_when_asked() -> None:
    assert "entropy" not in run(VQ(dim=4, codebook_size=8), torch.randn(1, 9, 4)).losses
    vq = VQ(dim=4, codebook_size=8, entropy_temperature=0.5)
    assert vq.loss_names == ("codebook", "commit", "entropy")
    z = torch.randn(1, 9, 4)
    p = (-(z[0][:, None] - vq.codebook[None]).square().sum(-1) / 0.5).softmax(-1).double()
    expected = -(p * p.log()).sum(-1).mean() + (p.mean(0) * p.mean(0).log()).sum()
    assert run(vq, z).losses["entropy"].item() == pytest.approx(expected.item(), abs=2e-4)  # their 1e-5 inside the logs


@pytest.mark.parametrize(
    "settings",
    [
        {"codebook_size": 1},
        {"codebook_size": 2**40},
        {"revive_below": 1.5},
        {"reset": "clustering", "revive_below": 0.1},
        {"usage_decay": 1.0},
        {"entropy_temperature": 0.0},
    ],
)
def test_impossible_settings(settings) -> None:
    with pytest.raises(ValueError, match=next(reversed(settings))):
        VQ(dim=4, **settings)


def test_rotation_trick_of_short_vectors_equals_the_library() -> None:
    """A thousandth of a unit: what guards the divisions must not show."""
    from vector_quantize_pytorch.vector_quantize_pytorch import rotate_to as theirs

    z = (torch.randn(2, 10, 6) * 1e-3).requires_grad_()
    codes, probe = torch.randn(2, 10, 6) * 1e-3, torch.randn(2, 10, 6)
    grad = torch.autograd.grad((rotate_to(z, codes) * probe).sum(), z)[0]
    torch.testing.assert_close(grad, torch.autograd.grad((theirs(z, codes) * probe).sum(), z)[0], rtol=1e-3, atol=1e-4)
