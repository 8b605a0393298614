"""What one update minimises, the generator's total and the discriminator's loss: for training and to plan its cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..common.types import TokenizerOutput
from ..losses.adversarial.adversary import Adversary
from ..losses.total import WeightedLosses
from ..tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Objectives:
    """The networks of an update; every method is called under the caller's autocast."""

    tokenizer: Tokenizer
    losses: WeightedLosses
    adversary: Adversary | None

    def set_update(self, update: int) -> None:
        """Schedules inside the parts (temperatures, ramps) read the number of finished updates."""
        self.tokenizer.set_update(update)
        if self.adversary is not None:
            self.adversary.set_update(update)

    def generator(
        self, batch: Mapping[str, Any], conditions: Tensor | None, update: int
    ) -> tuple[Tensor, TokenizerOutput, dict[str, Tensor]]:
        """(total, the tokenizer's output, the unweighted values by name)."""
        output = self.forward(batch, conditions)
        total, logs = self.generator_loss(batch, output, update)
        return total, output, logs

    def forward(self, batch: Mapping[str, Any], conditions: Tensor | None) -> TokenizerOutput:
        output = self.tokenizer(batch["image"], conditions)
        if output.reconstruction is not None:
            output.reconstruction = output.reconstruction.float()  # differences of pixels in bf16 would be rounded
        return output

    def generator_loss(
        self, batch: Mapping[str, Any], output: TokenizerOutput, update: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(total, the unweighted values by name)."""
        values = self.losses(batch, output, update)
        total, logs = values.total, values.raw
        if self.adversary is not None and self.adversary.generator_active(update):
            against = values.sum_of(self.adversary.reconstruction_terms)
            gan, more = self.adversary.generator_loss(batch, output, against, self.tokenizer.last_layer)
            total, logs = total + gan, logs | more
        return total, logs

    def trains_discriminator(self, update: int) -> bool:
        return self.adversary is not None and self.adversary.discriminator_active(update)

    def discriminator(self, batch: Mapping[str, Any], output: TokenizerOutput) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.adversary is not None
        return self.adversary.discriminator_loss(batch, output)
