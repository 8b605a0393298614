"""GAN losses on logits of any shape [B, ...]; each pair is a discriminator's and a generator's loss."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """VQGAN: half the sum of both margins."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def leaky_hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """DualToken: beyond the margin a slope of 0.01 is left."""
    return 0.5 * (F.leaky_relu(1 - real, 0.01).mean() + F.leaky_relu(1 + fake, 0.01).mean())


def hinge_generator(fake: Tensor) -> Tensor:
    return -fake.mean()


def vanilla_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Sigmoid cross-entropy of every patch, halved as in VQGAN."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def vanilla_generator(fake: Tensor) -> Tensor:
    """BSQ-ViT. VQGAN joins the vanilla discriminator to the hinge generator: adversary.generator_loss=hinge."""
    return F.softplus(-fake).mean()


def non_saturating_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """MAGVIT, Open-MAGVIT2: one logit an image (mean over its patches), then sigmoid cross-entropy, not halved."""
    return F.softplus(-_logit_per_image(real)).mean() + F.softplus(_logit_per_image(fake)).mean()


def non_saturating_generator(fake: Tensor) -> Tensor:
    return F.softplus(-_logit_per_image(fake)).mean()


def _logit_per_image(logits: Tensor) -> Tensor:
    return logits.flatten(1).mean(1)


DISCRIMINATOR_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "hinge": hinge_discriminator,
    "leaky_hinge": leaky_hinge_discriminator,
    "vanilla": vanilla_discriminator,
    "non_saturating": non_saturating_discriminator,
}
GENERATOR_LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "hinge": hinge_generator,
    "leaky_hinge": hinge_generator,
    "vanilla": vanilla_generator,
    "non_saturating": non_saturating_generator,
}


# LlamaGen's repository calls binary_cross_entropy_with_logits with the constant as logit and the logit as target. The
# generator's form is then affine in the logit and the discriminator's fake term is log 2 whatever the fake, so neither
# can train a model. Its released models use hinge. These two are for `imtok parity`; no setting reaches them.


def llamagen_swapped_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    real_term = F.binary_cross_entropy_with_logits(torch.ones_like(real), real)
    return 0.5 * (real_term + F.binary_cross_entropy_with_logits(torch.zeros_like(fake), fake))


def llamagen_swapped_generator(fake: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(torch.ones_like(fake), fake)
