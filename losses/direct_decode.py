"""A second picture, painted from what the encoder's convolutions saw, past queries and codes: GigaTok's warm start."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

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

    def misfit(self, tokenizer: nn.Module) -> str | None:
        """Called once, before training: here the term meets the decoder, hidden from its own module tree."""
        if not hasattr(tokenizer.decoder, "paint"):
            return f": tokenizer.decoder ({type(tokenizer.decoder).__name__}) cannot paint a map without codes"
        self.__dict__["decoder"] = tokenizer.decoder
        return next(filter(None, (term.misfit(tokenizer) for term in self.terms.values())), None)

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        picture = self.decoder.paint(output.features[self.feature]).float()
        painted = replace(output, reconstruction=picture)
        return sum(term(batch, painted) for term in self.terms.values())

    def is_available(self, output: TokenizerOutput) -> bool:
        return self.feature in output.features

    @property
    def weights_are_random(self) -> bool:
        return any(getattr(term, "weights_are_random", False) for term in self.terms.values())
