"""Loss terms that the quantizer or the decoder computes itself."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..common.types import TokenizerOutput
from .base import LossTerm


class QuantizerTerm(LossTerm):
    """output.quantized.losses[key].

    optional: left out, with a note, when tokenizer.quantizer offers no such loss, so that quantizers can be swapped.
    """

    free = True

    def __init__(self, *, key: str, optional: bool = False) -> None:
        super().__init__()
        self.key = key
        self.optional = optional

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        return _pick(output.quantized.losses, self.key, "quantizer")

    def is_available(self, output: TokenizerOutput) -> bool:
        return self.training or self.key in output.quantized.losses

    def misfit(self, tokenizer: nn.Module) -> str | None:
        if "quantizer" in getattr(tokenizer, "frozen", ()):
            self.optional = True  # whoever freezes the quantizer need not take its terms away as well
            return f".term.key={self.key}: tokenizer.quantizer is frozen"
        return _not_offered(self.key, tokenizer.quantizer, "quantizer")


class DecoderTerm(LossTerm):
    """output.decoder_losses[key]: what a decoder without a cheap sample (flow, proxy codes) trains on."""

    free = True

    def __init__(self, *, key: str, optional: bool = False) -> None:
        super().__init__()
        self.key = key
        self.optional = optional

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        return _pick(output.decoder_losses, self.key, "decoder")

    def is_available(self, output: TokenizerOutput) -> bool:
        return self.training or self.key in output.decoder_losses

    def misfit(self, tokenizer: nn.Module) -> str | None:
        return _not_offered(self.key, tokenizer.decoder, "decoder")


def _pick(losses: Mapping[str, Tensor], key: str, part: str) -> Tensor:
    assert key in losses, f"the {part} declares the loss {key!r} but returned only {sorted(losses)}"
    return losses[key]


def _not_offered(key: str, part: Any, name: str) -> str | None:
    offered = tuple(getattr(part, "loss_names", ()))
    if key in offered:
        return None
    what = f"it offers {', '.join(offered)}" if offered else "it offers none"
    return f".term.key={key}: tokenizer.{name} ({type(part).__name__}) has no such loss; {what}"
