"""Reconstruction loss of an image decoded from the encoder's feature map, without codes: GigaTok's warm start."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..common.types import TokenizerOutput
from .base import LossTerm


class DirectDecode(LossTerm):
    """decoder.paint(map) compared with the image by `terms`, summed (Xiong et al., arXiv 2504.08736, appendix).

    feature: path of the module that gives the map. terms: {name: loss term}, those of the reconstruction, unweighted.
    """

    def __init__(self, *, terms: Mapping[str, nn.Module], feature: str = "encoder.conv_out") -> None:
        super().__init__()
        self.feature = feature
        self.taps = {feature: feature}
        self.terms = nn.ModuleDict(dict(terms))
        self.paint: Callable[[Tensor], Tensor] | None = None

    def misfit(self, tokenizer: nn.Module) -> str | None:
        """Called once, before training: takes the decoder's method, which makes the decoder no part of this term."""
        decoder: Any = tokenizer.decoder
        if not hasattr(decoder, "paint"):
            return f": tokenizer.decoder ({type(decoder).__name__}) cannot decode a map without codes"
        self.paint = decoder.paint
        for name, term in self.terms.items():
            assert isinstance(term, LossTerm)
            if reason := term.misfit(tokenizer):
                return f".term.terms.{name}{reason.removeprefix('.term')}"
        return None

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        assert self.paint is not None, "misfit comes first"
        decoded = replace(output, reconstruction=self.paint(output.features[self.feature]).float())
        return torch.stack([term(batch, decoded) for term in self.terms.values()]).sum()

    def is_available(self, output: TokenizerOutput) -> bool:
        return self.feature in output.features
