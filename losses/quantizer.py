"""Loss terms that the quantizer or the decoder computes itself."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..common.types import TokenizerOutput
from .base import LossTerm


class PartTerm(LossTerm):
    """Loss that a part of the tokenizer computes itself.

    optional: left out, with a note, when that part offers no such loss, so that parts can be swapped.
    """

    free = True
    part: str

    def __init__(self, *, key: str, optional: bool = False) -> None:
        super().__init__()
        self.key = key
        self.optional = optional
        self.is_error = key != "entropy"  # of which people want more or less

    @abstractmethod
    def losses(self, output: TokenizerOutput) -> Mapping[str, Tensor]:
        """Those that the part has computed."""

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        losses = self.losses(output)
        assert self.key in losses, f"the {self.part} declares the loss {self.key!r} but returned only {sorted(losses)}"
        return losses[self.key]

    def is_available(self, output: TokenizerOutput) -> bool:
        return self.training or self.key in self.losses(output)

    def misfit(self, tokenizer: nn.Module) -> str | None:
        part = getattr(tokenizer, self.part)
        offered = tuple(getattr(part, "loss_names", ()))
        if self.key in offered:
            return None
        what = f"it offers {', '.join(offered) or 'none'}"
        return f".term.key={self.key}: tokenizer.{self.part} ({type(part).__name__}) has no such loss; {what}"


class QuantizerTerm(PartTerm):
    """output.quantized.losses[key]."""

    part = "quantizer"

    def losses(self, output: TokenizerOutput) -> Mapping[str, Tensor]:
        return output.quantized.losses

    def misfit(self, tokenizer: nn.Module) -> str | None:
        if "quantizer" in getattr(tokenizer, "frozen", ()):
            self.optional = True  # whoever freezes the quantizer need not take its terms away as well
            return f".term.key={self.key}: tokenizer.quantizer is frozen"
        return super().misfit(tokenizer)


class DecoderTerm(PartTerm):
    """output.decoder_losses[key]: what a decoder without a cheap sample (flow, proxy codes) trains on."""

    part = "decoder"

    def losses(self, output: TokenizerOutput) -> Mapping[str, Tensor]:
        return output.decoder_losses
