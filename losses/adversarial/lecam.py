"""LeCam regularisation (Tseng et al., arXiv:2104.03310): keeps logits near the running means of the other side."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.distributed import mean_over_ranks


class LeCam(nn.Module):
    """A penalty for the discriminator, unweighted; the Adversary multiplies by `weight`.

    form: "batch_mean" compares the batch's mean logit with the running means, which move afterwards (TiTok);
        "per_logit" compares every logit with the running means, which move first (Open-MAGVIT2, IBQ, WeTok).
    start: the update from which means are taken and the penalty counts; before, an untrained discriminator would
        fill the means. 0: as long as the discriminator trains.
    The means start at 0, are checkpointed, and are those of all processes together.
    """

    ema_real: Tensor
    ema_fake: Tensor

    def __init__(
        self,
        *,
        weight: float = 0.001,
        decay: float = 0.999,
        start: int = 0,
        form: Literal["batch_mean", "per_logit"] = "batch_mean",
    ) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay}: give a number from 0 to 1, e.g. 0.999")
        self.weight = weight
        self.decay = decay
        self.start = start
        self.form = form
        self.register_buffer("ema_real", torch.zeros((), dtype=torch.float32))
        self.register_buffer("ema_fake", torch.zeros((), dtype=torch.float32))

    def forward(self, real: Tensor, fake: Tensor, *, update: int) -> Tensor:
        if update < self.start:
            return torch.zeros((), device=real.device)
        real, fake = real.float(), fake.float()
        if self.form == "per_logit":
            self._move_means(real, fake)
            return one_sided_penalty(real, fake, self.ema_real, self.ema_fake)
        penalty = one_sided_penalty(real.mean(), fake.mean(), self.ema_real, self.ema_fake)
        self._move_means(real, fake)
        return penalty

    @torch.no_grad()
    def _move_means(self, real: Tensor, fake: Tensor) -> None:
        if not self.training:
            return
        means = mean_over_ranks(torch.stack([real.mean(), fake.mean()]))
        self.ema_real.lerp_(means[0], 1 - self.decay)
        self.ema_fake.lerp_(means[1], 1 - self.decay)


def one_sided_penalty(real: Tensor, fake: Tensor, ema_real: Tensor, ema_fake: Tensor) -> Tensor:
    """Real logits may not rise far above the fakes' mean, fake ones not fall far below the reals' mean."""
    return F.relu(real - ema_fake).square().mean() + F.relu(ema_real - fake).square().mean()
