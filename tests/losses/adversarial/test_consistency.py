"""bCR: what it compares, alone and as a part of the discriminator's loss."""

import pytest
import torch
from torch import nn

from imtok.losses.adversarial.adversary import Adversary
from imtok.losses.adversarial.consistency import BalancedConsistency
from imtok.losses.adversarial.diff_augment import DiffAugment
from imtok.losses.adversarial.dinov2 import DinoV2Discriminator


class Darker(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images - 0.5


class Mirrored(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flip(-1)


class Cubed(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images**3


class Brightness(nn.Module):
    """One logit a pixel, times a parameter."""

    def __init__(self, augment: nn.Module | None = None) -> None:
        super().__init__()
        self.gain, self.augment = nn.Parameter(torch.tensor(2.0)), augment

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images if self.augment is None else self.augment(images)
        return self.gain * images.mean(dim=1, keepdim=True)


def test_squared_difference_of_the_two_looks() -> None:
    discriminator, images = Brightness(), torch.rand(2, 3, 4, 4)
    found = BalancedConsistency(augment=Darker())(discriminator, images, discriminator(images))
    assert float(found.detach()) == pytest.approx((2 * 0.5) ** 2, rel=1e-5)
    assert float(BalancedConsistency()(discriminator, images, discriminator(images)).detach()) == 0


def test_the_discriminators_own_augmentation_draws_anew() -> None:
    torch.manual_seed(0)
    discriminator, images = Brightness(DiffAugment()), torch.rand(2, 3, 8, 8)
    assert float(BalancedConsistency()(discriminator, images, discriminator(images)).detach()) > 0


def test_both_sides_join_the_discriminators_loss_with_their_own_weight(FakeTokenizer, images) -> None:
    batch = {"image": images(2, 16, seed=1)}
    output = FakeTokenizer()(batch["image"])
    settings = {"discriminator_weight": 3.0, "gan_loss": "hinge"}
    plain = Adversary(discriminator=Brightness(), **settings)
    with_bcr = Adversary(discriminator=Brightness(), consistency=BalancedConsistency(augment=Darker()), **settings)
    loss, logs = with_bcr.discriminator_loss(batch, output)
    without, _ = plain.discriminator_loss(batch, output)
    assert float(logs["consistency"]) == pytest.approx(2.0, rel=1e-4)  # 1 for real, 1 for fake
    assert float((loss - without).detach()) == pytest.approx(4.0 * 2.0, rel=1e-4)
    loss.backward()
    assert float(with_bcr.discriminator.gain.grad) != 0


def test_an_augmentation_of_its_own_takes_the_place_of_the_discriminators() -> None:
    """UniTok: the first look is blurred while the blur fades, the second never."""
    small = {"weights": "random", "width": 32, "depth": 1, "num_heads": 2, "taps": (0,)}
    blurs, images = DinoV2Discriminator(augment=Cubed(), **small), torch.rand(2, 3, 28, 28)
    plain = DinoV2Discriminator(**small)
    plain.load_state_dict(blurs.state_dict())
    logits = torch.zeros(2, 4)
    with torch.no_grad():
        ends = [float(plain(x).square().mean()) for x in (images, images.flip(-1), images**3, images.flip(-1) ** 3)]
        assert len({round(end, 4) for end in ends}) == 4, "each is another to this network"
        found = BalancedConsistency(augment=Mirrored())(blurs, images, logits)
        assert float(found) == pytest.approx(float(plain(images.flip(-1)).square().mean()))
        found = BalancedConsistency()(blurs, images, logits)
        assert float(found) == pytest.approx(float(plain(images**3).square().mean()))
