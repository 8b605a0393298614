"""The text side of a contrastive loss: one of open_clip's towers, or a small one that trains from scratch."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from .base import NoWeights, load_state
from .open_clip_import import create_model, import_open_clip


class TextTower(nn.Module):
    """Captions to vectors [B, dim], not normalised.

    model, tag: open_clip's names; a null model is a tower of `width`, `layers`, `heads` and `dim`, drawn at random.
    weights: pretrained, PATH (a whole CLIP or its text tower), random. trainable: trained with the generator.
    max_tokens: of a caption, what is longer is cut; null: the model's own.
    """

    published_weights: ClassVar[bool] = True

    def __init__(
        self,
        *,
        model: str | None = None,
        tag: str | None = None,
        weights: str = "random",
        trainable: bool = True,
        dim: int = 512,
        width: int = 512,
        layers: int = 12,
        heads: int = 8,
        max_tokens: int | None = None,
    ) -> None:
        super().__init__()
        open_clip = import_open_clip()
        if model is None and weights == "pretrained":
            raise ValueError("weights=pretrained: which ones? name an open_clip model, or set weights=random")
        if model is None:
            if width % heads:
                raise ValueError(f"heads={heads}: width={width} cannot be split into that many heads")
            from open_clip.transformer import TextTransformer

            length = max_tokens or 77
            self.network = TextTransformer(
                context_length=length, width=width, heads=heads, layers=layers, output_dim=dim
            )
            tokenizer = open_clip.SimpleTokenizer(context_length=length)
        else:
            try:
                self.network = create_model(model, tag=tag if weights == "pretrained" else None, weights=weights).text
            except NoWeights as error:
                raise ValueError(str(error)) from error
            try:
                tokenizer = open_clip.get_tokenizer(model, context_length=max_tokens)
            except Exception as error:  # some vocabularies lie on the hub, whose client raises a dozen types
                raise ValueError(
                    f"model={model}: its vocabulary could not be fetched ({type(error).__name__}); a CLIP model's, as "
                    "ViT-B-16, comes with open_clip"
                ) from error
            dim = int(open_clip.get_model_config(model)["embed_dim"])
        if weights not in ("pretrained", "random"):
            load_state(self.network, weights, prefixes=("", "text.", "module.text."))
        self.dim, self.trainable, self.weights = dim, trainable, weights
        self.__dict__["words_to_numbers"] = tokenizer
        self.requires_grad_(trainable)

    @property
    def weights_are_random(self) -> bool:
        """A random tower that trains is no stranger to what it reads; a frozen one is."""
        return self.weights == "random" and not self.trainable

    def forward(self, captions: Sequence[str]) -> Tensor:
        numbers = self.words_to_numbers(list(captions)).to(next(self.parameters()).device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trainable):
            return self.network(numbers)
