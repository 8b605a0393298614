"""The GAN part of a training: discriminator, GAN losses, and when and how much they count."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...common.errors import UserError, did_you_mean
from ...common.precision import autocast_of
from ...common.schedule import schedule_of
from ...common.types import TokenizerOutput
from .actnorm import ActNorm
from .adaptive_weight import AdaptiveWeight
from .consistency import BalancedConsistency
from .diff_augment import DiffAugment
from .gan_losses import DISCRIMINATOR_LOSSES, GENERATOR_LOSSES
from .lecam import LeCam

Logs = dict[str, Tensor]
PIXEL_TERMS = ("l1", "l2", "lpips")


class Adversary(nn.Module):
    """Discriminator and GAN losses with their schedule. Updates are the generator's, and the first has number 0.

    discriminator: a module, images to logits. adaptive: AdaptiveWeight, or null: `weight` alone. lecam: LeCam or null.
    consistency: BalancedConsistency (bCR) or null; not halved or scaled by anything but its own weight.
    gan_loss: the discriminator's loss; generator_loss: the generator's, the matching one by default.
    weight: of the generator's GAN loss, discriminator_weight: of the discriminator's; numbers or schedules.
    start: the first update whose generator sees the discriminator; `ramp`: updates in which its factor grows to 1.
    discriminator_warmup: updates before `start` in which the discriminator trains already. Earlier it does not run.
    reconstruction_terms: the losses whose gradient `adaptive` weighs; those of them that are selected count, with their
        weight in `loss`, or with a number of their own: [l1, {l2: 1.0}], or {l1: 0.2, l2: 1.0}.
    optimizer: the discriminator's, as a node; null: like the generator's.
    own_clock: the schedule of its learning rate counts from the discriminator's first update; false: from the run's.
    order: which network steps first in an update. discriminator_first (IBQ): the generator's loss then comes from the
        stepped discriminator, on the same reconstruction; an update is one micro-batch then.
    image_range: of what the discriminator sees: "signed" is [-1, 1], "unit" [0, 1] (TiTok): zero padding is grey in one
        and black in the other.
    precision: of the discriminator, auto (trainer.precision) | fp32.
    """

    keeps_nodes: ClassVar[tuple[str, ...]] = ("optimizer",)  # built when there are parameters

    def __init__(
        self,
        *,
        discriminator: nn.Module,
        gan_loss: str = "hinge",
        generator_loss: str | None = None,
        weight: float | Mapping[str, Any] = 1.0,
        discriminator_weight: float | Mapping[str, Any] = 1.0,
        adaptive: AdaptiveWeight | None = None,
        lecam: LeCam | None = None,
        consistency: BalancedConsistency | None = None,
        start: int = 0,
        discriminator_warmup: int = 0,
        ramp: int = 0,
        reconstruction_terms: Sequence[str | Mapping[str, float]] | Mapping[str, float] = PIXEL_TERMS,
        optimizer: Mapping[str, Any] | None = None,
        own_clock: bool = True,
        order: Literal["generator_first", "discriminator_first"] = "generator_first",
        image_range: Literal["signed", "unit"] = "signed",
        precision: Literal["auto", "fp32"] = "auto",
    ) -> None:
        super().__init__()
        self.discriminator, self.adaptive = discriminator, adaptive
        self.lecam, self.consistency = lecam, consistency
        self.discriminator_form = _choose(DISCRIMINATOR_LOSSES, gan_loss, "gan_loss")
        self.generator_form = _choose(GENERATOR_LOSSES, generator_loss or gan_loss, "generator_loss")
        for name, updates in (("start", start), ("discriminator_warmup", discriminator_warmup), ("ramp", ramp)):
            if updates < 0:
                raise ValueError(f"{name}={updates}: give a number of updates, 0 or more")
        if discriminator_warmup > start:
            raise ValueError(
                f"discriminator_warmup={discriminator_warmup}: begins before the run; "
                f"set start to {discriminator_warmup} or more (it is {start})"
            )
        self.weight = schedule_of(weight, key="weight")
        self.discriminator_weight = schedule_of(discriminator_weight, key="discriminator_weight")
        self.start = start
        self.discriminator_warmup = discriminator_warmup
        self.ramp = ramp
        self.reconstruction_terms = weights_by_name(reconstruction_terms)
        self.optimizer = optimizer
        self.own_clock = own_clock
        self.discriminator_first = order == "discriminator_first"
        self.image_range, self.precision = image_range, precision
        self.update = 0

    def check(self, tokenizer: Any, loss_names: Sequence[str]) -> None:
        """Fail before the first batch where tokenizer, losses and adversary cannot work together."""
        known = [*loss_names, *PIXEL_TERMS]
        for name in self.reconstruction_terms:
            if name not in known:
                raise UserError(
                    f"adversary.reconstruction_terms: no loss is named {name!r}; {did_you_mean(name, known)}"
                )
        decoder = type(tokenizer.decoder).__name__
        if not tokenizer.decoder.cheap_sample:
            raise UserError(f"adversary: tokenizer.decoder ({decoder}) gives no image in training; use adversary=none")
        smallest, size = getattr(self.discriminator, "smallest_image", 1), list(tokenizer.image_size)
        if min(size) < smallest:
            raise UserError(
                f"data.image_size={size}: the discriminator needs {smallest} pixels or more; "
                "use adversary=none, or a smaller discriminator (patchgan: n_layers)"
            )
        if self.adaptive is None:
            return
        if tokenizer.last_layer is None or not tokenizer.last_layer.requires_grad:
            what = "has no last layer" if tokenizer.last_layer is None else "has a frozen last layer"
            raise UserError(f"adversary.adaptive: tokenizer.decoder ({decoder}) {what}; set adversary.adaptive=null")
        if not set(self.reconstruction_terms) & set(loss_names):
            raise UserError(
                f"adversary.reconstruction_terms={list(self.reconstruction_terms)}: none of them is in "
                f"loss={list(loss_names)}; add one, or set adversary.adaptive=null"
            )

    def micro_batch_misfit(self) -> str | None:
        """Why the published update cannot be made of micro-batches, to be read after `adversary`."""
        if self.adaptive is not None and not self.adaptive.per_device:
            return (
                ".adaptive.per_device=false: the weight is of the gradients of a whole update; "
                "+adversary.adaptive.per_device=true lets every micro-batch weigh itself, as VQGAN's on every GPU; "
                "adversary.adaptive=null is a fixed weight"
            )
        if any(isinstance(m, ActNorm) and not m.initialized for m in self.discriminator.modules()):
            return ".discriminator.norm=act: its statistics start from the first update's whole batch; batch, or group"
        if self.lecam is not None and (reason := self.lecam.micro_batch_misfit()):
            return f".lecam{reason}"
        return None

    # -- when -------------------------------------------------------------------------------------------------------

    def set_update(self, update: int) -> None:
        self.update = update
        for part in self.modules():  # of the discriminator, of `consistency`
            if isinstance(part, DiffAugment):
                part.set_update(update - self.start)

    def generator_active(self, update: int) -> bool:
        return update >= self.start and self.weight(update) != 0

    @property
    def first_update(self) -> int:
        """The first that trains the discriminator."""
        return self.start - self.discriminator_warmup

    def discriminator_active(self, update: int) -> bool:
        return update >= self.first_update

    def factor(self, update: int) -> float:
        """Grows from 1/ramp at `start` to 1."""
        if update < self.start:
            return 0.0
        return min(1.0, (update - self.start + 1) / self.ramp) if self.ramp else 1.0

    # -- what -------------------------------------------------------------------------------------------------------

    def generator_loss(
        self,
        batch: Mapping[str, Any],
        output: TokenizerOutput,
        reconstruction_loss: Tensor,
        last_layer: Tensor | None,
    ) -> tuple[Tensor, Logs]:
        """Weighted, to be added to the generator's total.

        reconstruction_loss: the sum of reconstruction_terms (LossValues.sum_of), read by `adaptive` only.
        """
        reconstruction = output.reconstruction
        assert reconstruction is not None, "`check` refuses decoders without one"
        zero = torch.zeros((), device=reconstruction.device)
        if not self.generator_active(self.update):
            return zero, {"gan_weight": zero, "gan_factor": zero}
        with self._frozen_discriminator():
            raw = self.generator_form(self._logits(self._seen(reconstruction)))
        logged, loss = raw.detach(), raw
        weight = zero + self.weight(self.update)
        if self.adaptive is not None and torch.is_grad_enabled():
            assert last_layer is not None, "`check` refuses decoders without one"
            ratio, loss = self.adaptive(
                reconstruction_loss=reconstruction_loss,
                gan_loss=raw,
                reconstruction=reconstruction,
                last_layer=last_layer,
            )
            weight = weight * ratio
        factor = self.factor(self.update)
        return factor * weight * loss, {"gan_generator": logged, "gan_weight": weight, "gan_factor": zero + factor}

    def discriminator_loss(self, batch: Mapping[str, Any], output: TokenizerOutput) -> tuple[Tensor, Logs]:
        """The discriminator's own loss; nothing of the tokenizer gets a gradient."""
        # Two forwards, as in every published system: batch norm then normalises real and fake images apart.
        assert output.reconstruction is not None, "`check` refuses decoders without one"
        images, reconstruction = self._seen(batch["image"]), self._seen(output.reconstruction.detach())
        real, fake = self._logits(images), self._logits(reconstruction)
        gan = self.discriminator_form(real, fake)
        logs = {
            "gan_discriminator": gan.detach(),
            "logits_real": real.detach().mean(),
            "logits_fake": fake.detach().mean(),
        }
        loss = gan
        if self.lecam is not None:
            penalty = self.lecam(real, fake, update=self.update)
            logs["lecam"] = penalty.detach()
            loss = loss + self.lecam.weight * penalty
        loss = self.discriminator_weight(self.update) * loss
        if self.consistency is not None:
            with autocast_of(self.precision, images.device):
                apart = self.consistency(self.discriminator, images, real)
                apart = apart + self.consistency(self.discriminator, reconstruction, fake)
            logs["consistency"] = apart.detach()
            loss = loss + self.consistency.weight * apart
        return loss, logs

    def _logits(self, images: Tensor) -> Tensor:
        with autocast_of(self.precision, images.device):
            return self.discriminator(images).float()

    def _seen(self, images: Tensor) -> Tensor:
        return (images + 1) / 2 if self.image_range == "unit" else images

    @contextmanager
    def _frozen_discriminator(self) -> Iterator[None]:
        """Forward without gradients for the discriminator's parameters; those for its input go through.

        Safe under autocast: bf16 copies that it remembers with their graph are looked up for trained weights only.
        """
        trained = [p for p in self.discriminator.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)


def weights_by_name(terms: Sequence[str | Mapping[str, float]] | Mapping[str, float]) -> dict[str, float | None]:
    """{loss: its weight, None for that of `loss`}. A list, since Hydra puts no mapping in the place of a list."""
    key, weights = "reconstruction_terms", {}
    for item in [terms] if isinstance(terms, Mapping) else terms:
        for name, weight in item.items() if isinstance(item, Mapping) else [(item, None)]:
            if not isinstance(name, str) or name in weights:
                raise ValueError(f"{key}: {name}: a loss's name, once; [l1, l2] or [{{l1: 0.2}}, {{l2: 1.0}}]")
            number = isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 <= weight < math.inf
            if isinstance(item, Mapping) and not number:
                raise ValueError(f"{key}.{name}={weight}: a number of 0 or more; {name} alone has its weight in `loss`")
            weights[name] = weight
    return weights


def _choose(table: Mapping[str, Any], name: str, key: str) -> Any:
    if name not in table:
        raise ValueError(f"{key}={name}: no such loss; {did_you_mean(name, table)}")
    return table[name]
