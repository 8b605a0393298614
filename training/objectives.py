"""What one update minimises, the generator's total and the discriminator's loss: for training and to plan its cost."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from ..common.once_an_update import parts_that_move
from ..common.types import TokenizerOutput
from ..losses.adversarial.adversary import Adversary
from ..losses.total import WeightedLosses
from ..tokenizers.tokenizer import Tokenizer


class Made:
    """What an objective gives beside the number to minimise.

    No tuple and no dataclass: DistributedDataParallel looks for tensors in those, and would take a parameter that only
    the output depends on for one that the loss depends on.
    """

    def __init__(self, output: TokenizerOutput, logs: dict[str, Tensor]) -> None:
        self.output, self.logs = output, logs


class GeneratorObjective(nn.Module):
    """Its parameters are those of the generator's optimizer: tokenizer and trained parts of loss terms."""

    def __init__(self, *, tokenizer: Tokenizer, losses: WeightedLosses, adversary: Adversary | None) -> None:
        super().__init__()
        self.tokenizer, self.losses = tokenizer, losses
        self._others = (adversary,)  # in a tuple: no part of this module

    def forward(
        self,
        batch: Mapping[str, Any],
        conditions: Tensor | None,
        update: int,
        between: Callable[[TokenizerOutput], None] | None = None,
    ) -> tuple[Tensor, Made]:
        """between: called with the tokenizer's output, before any loss; a discriminator that steps first does so here.

        One forward of one module, since that is what DDP and FSDP wrap.
        """
        (adversary,) = self._others
        output = self.tokenizer(batch["image"], conditions)
        if output.reconstruction is not None:
            output.reconstruction = output.reconstruction.float()  # differences of pixels in bf16 would be rounded
        if between is not None:
            between(output)
        values = self.losses(batch, output, update)
        total, logs = values.total, values.raw
        if adversary is not None and adversary.generator_active(update):
            against = values.sum_of(adversary.reconstruction_terms)
            gan, more = adversary.generator_loss(batch, output, against, self.tokenizer.last_layer)
            total, logs = total + gan, logs | more
        return total, Made(output, logs)


class DiscriminatorObjective(nn.Module):
    """Its parameters are those of the discriminator's optimizer."""

    def __init__(self, adversary: Adversary) -> None:
        super().__init__()
        self.adversary = adversary

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> tuple[Tensor, Made]:
        loss, logs = self.adversary.discriminator_loss(batch, output)
        return loss, Made(output, logs)


class InOneProcess:
    """An objective as it is called in training; training/ddp.py has the same for several processes."""

    def __init__(self, objective: nn.Module) -> None:
        self.objective = objective

    def __call__(self, *given: Any, last: bool = True) -> tuple[Tensor, Made]:
        """last: of the micro-batches of an update."""
        return self.objective(*given)

    def finish(self) -> None:
        """After the backward of the last micro-batch."""


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """The networks of an update; every method is called under the caller's autocast."""

    tokenizer: Tokenizer
    losses: WeightedLosses
    adversary: Adversary | None
    modules: dict[str, nn.Module] = field(init=False)  # `generator` and, if any, `adversary`

    def __post_init__(self) -> None:
        generator = GeneratorObjective(tokenizer=self.tokenizer, losses=self.losses, adversary=self.adversary)
        self.__dict__["modules"] = {"generator": generator}
        if self.adversary is not None:
            self.modules["adversary"] = DiscriminatorObjective(self.adversary)

    def set_update(self, update: int) -> None:
        """Schedules inside the parts (temperatures, ramps) read the number of finished updates."""
        self.tokenizer.set_update(update)
        if self.adversary is not None:
            self.adversary.set_update(update)

    def begin_update(self) -> None:
        """Of an update of several micro-batches: running means and codes wait for `finish_update`."""
        for part in parts_that_move(self.tokenizer, self.losses, self.adversary):
            part.begin_update()

    def finish_update(self) -> None:
        """After the last backward, before the optimizers step."""
        for part in parts_that_move(self.tokenizer, self.losses, self.adversary):
            part.finish_update()

    def generator(
        self, batch: Mapping[str, Any], conditions: Tensor | None, update: int
    ) -> tuple[Tensor, TokenizerOutput, dict[str, Tensor]]:
        """(total, the tokenizer's output, the unweighted values by name)."""
        total, made = self.modules["generator"](batch, conditions, update)
        return total, made.output, made.logs

    def trains_discriminator(self, update: int) -> bool:
        return self.adversary is not None and self.adversary.discriminator_active(update)

    def discriminator(self, batch: Mapping[str, Any], output: TokenizerOutput) -> tuple[Tensor, dict[str, Tensor]]:
        loss, made = self.modules["adversary"](batch, output)
        return loss, made.logs
