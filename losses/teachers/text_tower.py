"""The text side of a contrastive loss: one of open_clip's towers, or a small one that trains from scratch."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from ...common.caption_numbers import CaptionNumbers, Words
from ...common.devices import moved
from ...common.errors import MissingWeights
from ...common.weights import load
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
            found = load(self.network, weights, prefixes=("text.", ""))
        else:
            self.network, found = create_model(model, part="text", tag=tag, weights=weights)
            try:
                tokenizer = open_clip.get_tokenizer(model, context_length=max_tokens)
            except Exception as error:  # some vocabularies are on the hub, whose client raises a dozen types
                raise MissingWeights(
                    f"model={model}: its vocabulary could not be fetched ({type(error).__name__}); a CLIP model's, as "
                    "ViT-B-16, comes with open_clip"
                ) from error
            dim = int(open_clip.get_model_config(model)["embed_dim"])
        self.dim, self.trainable = dim, trainable
        self.origin = None if trainable else found  # a random tower that trains learns to read; a frozen one does not
        self.caption_numbers = CaptionNumbers(key=f"{model}_{max_tokens}", make_words=partial(_given, tokenizer))
        self.requires_grad_(trainable)

    def forward(self, captions: Sequence[str] | Tensor) -> Tensor:
        """captions: or what `caption_numbers` makes of them."""
        numbers = captions if isinstance(captions, Tensor) else self.caption_numbers(captions)
        numbers = moved(numbers, next(self.parameters()).device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.trainable):
            return self.network(numbers)


def _given(words: Words) -> Words:
    return words
