"""LeCam regularisation (Tseng et al., arXiv:2104.03310): keeps logits near the running means of the other side."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.distributed import mean_over_ranks
from ...common.once_an_update import MovesOnceAnUpdate


class LeCam(MovesOnceAnUpdate, nn.Module):
    """A penalty for the discriminator, unweighted; the Adversary multiplies by `weight`.

    form: "batch_mean" compares the batch's mean logit with the running means, which move afterwards (TiTok);
        "per_logit" compares every logit with the running means, which move first (Open-MAGVIT2, IBQ, WeTok).
    images: of one mean logit of "batch_mean": published code has those of one GPU (TiTok: 32). null: what a device has.
    means_first: whether the running means move before the penalty; null: as `form` says. An update of several
        micro-batches has its means only at its end: false.
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
        images: int | None = None,
        means_first: bool | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay}: give a number from 0 to 1, e.g. 0.999")
        self.weight = weight
        self.decay = decay
        self.start = start
        if images is not None and (images < 1 or form != "batch_mean"):
            raise ValueError(f"images={images}: of one mean logit, 1 or more; form=per_logit has none, so null there")
        self.form = form
        self.images = images
        self.means_first = form == "per_logit" if means_first is None else means_first
        self.register_buffer("ema_real", torch.zeros((), dtype=torch.float32))
        self.register_buffer("ema_fake", torch.zeros((), dtype=torch.float32))

    def forward(self, real: Tensor, fake: Tensor, *, update: int) -> Tensor:
        if update < self.start:
            return torch.zeros((), device=real.device)
        real, fake = real.float(), fake.float()
        if self.means_first and self.training:
            self.once_an_update(self._move_means, real.detach(), fake.detach())
        compared = (real, fake) if self.form == "per_logit" else (self._grouped_mean(real), self._grouped_mean(fake))
        penalty = one_sided_penalty(*compared, self.ema_real, self.ema_fake)
        if not self.means_first and self.training:
            self.once_an_update(self._move_means, real.detach(), fake.detach())
        return penalty

    def _grouped_mean(self, logits: Tensor) -> Tensor:
        """[groups]"""
        if self.images is None or len(logits) <= self.images:
            return logits.mean()[None]
        if len(logits) % self.images:
            raise ValueError(
                f"adversary.lecam.images={self.images}: a device has {len(logits)} images at once; give a multiple of "
                "it by data.batch_size or data.batch_per_device, or another number"
            )
        return logits.unflatten(0, (-1, self.images)).flatten(1).mean(dim=1)

    def micro_batch_misfit(self) -> str | None:
        if self.means_first:
            return (
                f".form={self.form}: its running means move before the penalty, to an update's mean that its first "
                "micro-batch does not know; +adversary.lecam.means_first=false"
            )
        if self.form == "batch_mean" and self.images is None:
            return ".images=null: the mean logit is of a whole batch; say of how many: +adversary.lecam.images=32"
        return None

    @torch.no_grad()
    def _move_means(self, real: Tensor, fake: Tensor) -> None:
        means = mean_over_ranks(torch.stack([real.mean(), fake.mean()]))
        self.ema_real.lerp_(means[0], 1 - self.decay)
        self.ema_fake.lerp_(means[1], 1 - self.decay)


def one_sided_penalty(real: Tensor, fake: Tensor, ema_real: Tensor, ema_fake: Tensor) -> Tensor:
    """Real logits may not rise far above the fakes' mean, fake ones not fall far below the reals' mean."""
    return F.relu(real - ema_fake).square().mean() + F.relu(ema_real - fake).square().mean()
