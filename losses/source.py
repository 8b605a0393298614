"""The tensors of a tokenizer that a loss reads: `heads.NAME`, `codes.STREAM`, `latents.STREAM` or `features.PATH`."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..common.errors import did_you_mean
from ..common.types import Grid, Stream, TokenizerOutput

KINDS = ("codes", "latents", "heads", "features")


@dataclass(frozen=True)
class Reading:
    """codes: after the quantizer; latents: before it; features: what a module of the tokenizer, by its path, gives."""

    kind: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "Reading":
        kind, _, name = str(text).partition(".")
        if kind not in KINDS or not name:
            raise ValueError(
                f"reads={text}: give one of codes.STREAM, latents.STREAM, heads.NAME, features.MODULE_PATH"
            )
        return cls(kind, name)

    @property
    def through_quantizer(self) -> bool | None:
        """None: of a module elsewhere than in encoder, decoder or heads, the output may be either."""
        behind = {"codes": True, "heads": True, "decoder": True, "latents": False, "encoder": False}
        return behind.get(self.name.partition(".")[0] if self.kind == "features" else self.kind)

    @property
    def taps(self) -> dict[str, str]:
        return {self.name: self.name} if self.kind == "features" else {}

    def of(self, output: TokenizerOutput) -> Stream:
        if self.kind == "codes":
            return output.quantized.codes[self.name]
        if self.kind == "latents":
            return output.latents[self.name]
        return as_stream(getattr(output, self.kind)[self.name])

    def width(self, tokenizer: nn.Module) -> int | None:
        """Channels, known before anything runs; None for module outputs."""
        if self.kind == "heads":
            return getattr(tokenizer.get_submodule(f"heads.{self.name}"), "out_dim", None)
        if self.kind == "features":
            return None
        widths = self._widths(tokenizer)
        return widths if isinstance(widths, int) else widths[self.name]

    def _widths(self, tokenizer: nn.Module) -> int | dict[str, int]:
        parts: Any = tokenizer
        return parts.quantizer.out_dim if self.kind == "codes" else parts.encoder.dim

    def misfit(self, tokenizer: nn.Module) -> str | None:
        if self.kind == "heads":
            known = [str(name) for name in getattr(tokenizer, "heads", {})]
        elif self.kind == "features":
            return None  # the tap names what is wrong with a path
        else:
            widths = self._widths(tokenizer)
            known = ["main"] if isinstance(widths, int) else list(widths)
        if self.name in known:
            return None
        there = did_you_mean(self.name, known)
        return f".term.reads={self.kind}.{self.name}: the tokenizer has no such {self.kind}; {there}"


def as_stream(x: Tensor) -> Stream:
    """[B, N, D], [B, C, h, w] or one vector per image, [B, D]."""
    if x.ndim == 2:
        return Stream(x[:, None], (1, 1))
    if x.ndim == 4:
        return Stream(x.flatten(2).transpose(1, 2), (x.shape[-2], x.shape[-1]))
    return Stream(x, _square(x.shape[1]))


def _square(count: int) -> Grid | None:
    side = round(count**0.5)
    return (side, side) if side * side == count else None
