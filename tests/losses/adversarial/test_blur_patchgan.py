"""MaskBit's discriminator: sizes, the filter against scipy-free arithmetic, and refusals by name."""

import pytest
import torch
import torch.nn.functional as F

from imtok.losses.adversarial.blur_patchgan import BlurHalve, BlurPatchGAN


def test_published_size() -> None:
    with torch.device("meta"):
        discriminator = BlurPatchGAN()
    convolutions = 3 * 128 * 25 + 128 + 9 * 128 * (128 + 256) + 128 + 256 + 9 * 256 * 512 + 512
    head = 512 * 512 + 512 + 512 * 25 + 1
    norms = 2 * (128 + 256 + 512)
    assert sum(p.numel() for p in discriminator.parameters()) == convolutions + head + norms
    assert discriminator(torch.empty(2, 3, 256, 256, device="meta")).shape == (2, 1, 32, 32)


@pytest.mark.parametrize(("taps", "first"), [(3, 0), (4, -1), (5, -1)])
def test_halving_weighs_neighbours_binomially(taps: int, first: int) -> None:
    line = torch.tensor({3: [1.0, 2, 1], 4: [1.0, 3, 3, 1], 5: [1.0, 4, 6, 4, 1]}[taps]) / 2 ** (taps - 1)
    x = torch.randn(2, 3, 8, 12)
    out = BlurHalve(taps=taps)(x)
    assert out.shape == (2, 3, 4, 6)
    top, left = 2 * 2 + first, 2 * 3 + first  # the window of the output at (2, 3)
    window = x[:, :, top : top + taps, left : left + taps]
    torch.testing.assert_close(out[:, :, 2, 3], (window * line[:, None] * line).sum(dim=(2, 3)))


def test_a_flat_picture_stays_flat_inside() -> None:
    assert torch.allclose(BlurHalve(taps=4)(torch.full((1, 2, 10, 10), 0.7))[:, :, 1:-1, 1:-1], torch.tensor(0.7))


def test_forward_is_the_published_chain_of_layers() -> None:
    """Table 7 of MaskBit: every activation leaks a tenth; the last features are pooled to TiTok's largest map."""
    discriminator = BlurPatchGAN(ndf=32, stages=2, largest_map=4)
    weights = {name: p + 0.1 * torch.randn_like(p) for name, p in discriminator.state_dict().items()}
    discriminator.load_state_dict(weights)
    images = torch.randn(2, 3, 32, 24)

    def conv(name: str, x: torch.Tensor, padding: int = 0) -> torch.Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=padding)

    def leak(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, 0.1 * x)

    x = leak(conv("stem", images, 2))
    for stage in ("blocks.0", "blocks.1"):
        x = BlurHalve(taps=4)(conv(f"{stage}.conv", x, 1))
        x = leak(F.group_norm(x, 32, weights[f"{stage}.norm.weight"], weights[f"{stage}.norm.bias"]))
    x = F.adaptive_max_pool2d(x, 4)
    torch.testing.assert_close(discriminator(images), conv("head", leak(conv("mix", x)), 2))


def test_gradients_reach_the_image_and_all_weights() -> None:
    discriminator, images = BlurPatchGAN(ndf=32, stages=2), torch.randn(2, 3, 16, 16, requires_grad=True)
    discriminator(images).square().mean().backward()
    assert float(images.grad.abs().sum()) > 0
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in discriminator.parameters())
    assert set(discriminator.state_dict()) == {name for name, _ in discriminator.named_parameters()}


@pytest.mark.parametrize(("setting", "value"), [("stages", 0), ("blur", 6), ("ndf", 40), ("largest_map", 0)])
def test_nonsense_is_refused_by_name(setting: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"^{setting}={value}"):
        BlurPatchGAN(**{setting: value})
