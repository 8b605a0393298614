"""DualToken's discriminator: sizes, one block by hand, and its hinge."""

import pytest
import torch
import torch.nn.functional as F

from imtok.losses.adversarial.gan_losses import DISCRIMINATOR_LOSSES
from imtok.losses.adversarial.residual_patchgan import ResidualBlock, ResidualPatchGAN


@pytest.mark.parametrize(("side", "patches"), [(64, 8), (100, 13), (32, 4)])
def test_three_halvings(side: int, patches: int) -> None:
    discriminator = ResidualPatchGAN(ndf=32)
    assert discriminator(torch.rand(2, 3, side, side)).shape == (2, 1, patches, patches)
    assert [block.conv.out_channels for block in discriminator.blocks] == [64, 128, 256]


def test_a_block_is_its_shrunk_and_widened_input_plus_one_convolution() -> None:
    block, x = ResidualBlock(width=32, wider=64, stride=2), torch.randn(2, 32, 8, 8)
    normed = F.group_norm(x, 32, block.norm.weight, block.norm.bias, eps=1e-6)
    change = F.conv2d(F.leaky_relu(normed, 0.2), block.conv.weight, block.conv.bias, stride=2, padding=1)
    shrunk = F.avg_pool2d(x, 2)  # halving bilinearly averages four neighbours
    expected = change + F.conv2d(shrunk, block.widen.weight, block.widen.bias)
    torch.testing.assert_close(block(x), expected)


def test_stem_blocks_and_head_follow_each_other() -> None:
    discriminator, images = ResidualPatchGAN(ndf=32, n_layers=2), torch.randn(2, 3, 16, 16)
    stem, head = discriminator.stem, discriminator.head
    x = F.leaky_relu(F.conv2d(images, stem.weight, stem.bias, stride=2, padding=1), 0.2)
    for block in discriminator.blocks:
        x = block(x)
    torch.testing.assert_close(discriminator(images), F.conv2d(x, head.weight, head.bias, padding=1))
    for layer in (stem, discriminator.blocks[0].conv, discriminator.blocks[1].widen):
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    with torch.device("meta"):
        assert [b.conv.out_channels for b in ResidualPatchGAN(ndf=32, n_layers=5).blocks] == [64, 128, 256, 256, 256]
    assert len(ResidualPatchGAN(ndf=32, n_layers=1).blocks) == 1


def test_leaky_hinge_goes_on_pushing_beyond_the_margin() -> None:
    real, fake = torch.tensor([3.0]), torch.tensor([0.5])
    found = DISCRIMINATOR_LOSSES["leaky_hinge"](real, fake)
    assert float(found) == pytest.approx(0.5 * (-2.0 * 0.01 + 1.5))


def test_wrong_sizes_name_their_key() -> None:
    with pytest.raises(ValueError, match=r"^ndf=48: "):
        ResidualPatchGAN(ndf=48)
    with pytest.raises(ValueError, match=r"^n_layers=0: "):
        ResidualPatchGAN(n_layers=0)
