import math

import pytest
import torch
import torch.nn.functional as F

from imtok.losses.adversarial.gan_losses import DISCRIMINATOR_LOSSES, GENERATOR_LOSSES

REAL = torch.tensor([[2.0, 0.5], [-1.0, 1.0]]).view(2, 1, 1, 2)
FAKE = torch.tensor([[-3.0, -0.5], [1.0, 0.0]]).view(2, 1, 1, 2)


def test_hinge_by_hand():
    assert DISCRIMINATOR_LOSSES["hinge"](REAL, FAKE) == pytest.approx(
        0.5 * ((0 + 0.5 + 2 + 0) / 4 + (0 + 0.5 + 2 + 1) / 4)
    )
    assert GENERATOR_LOSSES["hinge"](FAKE) == pytest.approx(2.5 / 4)


def test_vanilla_is_binary_cross_entropy():
    ones, zeros = torch.ones_like(REAL), torch.zeros_like(REAL)
    expected = F.binary_cross_entropy_with_logits(REAL, ones) + F.binary_cross_entropy_with_logits(FAKE, zeros)
    torch.testing.assert_close(DISCRIMINATOR_LOSSES["vanilla"](REAL, FAKE), expected / 2)
    torch.testing.assert_close(GENERATOR_LOSSES["vanilla"](FAKE), F.binary_cross_entropy_with_logits(FAKE, ones))


def test_non_saturating_averages_patches_first():
    real, fake = (1.25, 0.0), (-1.75, 0.5)  # the images' mean logits

    def log_sigmoid(x):
        return -math.log(1 + math.exp(-x))

    generator = -sum(log_sigmoid(x) for x in fake) / 2
    discriminator = -sum(log_sigmoid(x) for x in real) / 2 - sum(log_sigmoid(-x) for x in fake) / 2
    assert GENERATOR_LOSSES["non_saturating"](FAKE) == pytest.approx(generator)
    assert DISCRIMINATOR_LOSSES["non_saturating"](REAL, FAKE) == pytest.approx(discriminator)


@pytest.mark.parametrize("name", GENERATOR_LOSSES)
def test_both_sides_pull_the_right_way(name):
    """Also what LlamaGen's swapped arguments fail: the fake logit must matter to the discriminator."""
    real, fake = REAL.clone().requires_grad_(), FAKE.clone().requires_grad_()
    DISCRIMINATOR_LOSSES[name](real, fake).backward()
    assert real.grad.sum() < 0 < fake.grad.sum()
    fake.grad = None
    GENERATOR_LOSSES[name](fake).backward()
    assert (fake.grad < 0).all()


def test_llamagens_swapped_pair_has_no_setting():
    names = {"hinge", "leaky_hinge", "vanilla", "non_saturating"}
    assert set(DISCRIMINATOR_LOSSES) == set(GENERATOR_LOSSES) == names
