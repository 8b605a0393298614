"""Tokenizer: builds encoder, quantizer and decoder from their YAML nodes and joins them. The only thing exported."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..common.build import build
from ..common.errors import UserError
from ..common.modules import ModuleDict
from ..common.types import IndexSegment, Latents, Quantized, StreamShape, TokenizerOutput, height_width
from ..decoders.base import Decoder
from ..decoders.heads.base import Head
from ..layers.masking import hidden_as_zero
from .conditioners.base import Conditioner
from .encoders.base import Encoder
from .feature_taps import FeatureTaps
from .index_tensors import check_entries, split_by_stream
from .quantizers.base import Quantizer
from .spaces.base import Space
from .token_dropout.base import TokenDropout


class Tokenizer(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] to indices [B, M, K] and back.

    image_size: what it was trained at (an int, or height and width); fully convolutional parts take others too.
    encoder, quantizer, decoder: YAML nodes; the quantizer is given `dim` by the encoder, the decoder by the quantizer.
    space: node of what encoder and decoder work in, pixels when None; frozen.
    token_dropout: node of which tokens the decoder may see in training; a tokenizer with one takes any `num_tokens`.
    conditioner: node of what turns captions into the tensor that the decoder reads in addition to codes.
    heads: nodes of further outputs read from the codes, by name: semantic features.
    """

    builds_own_parts: ClassVar[bool] = True
    frozen: tuple[str, ...] = ()  # paths of the parts that a training leaves as they are

    def __init__(
        self,
        *,
        image_size: int | Sequence[int],
        encoder: Mapping[str, Any],
        quantizer: Mapping[str, Any],
        decoder: Mapping[str, Any],
        space: Mapping[str, Any] | None = None,
        token_dropout: Mapping[str, Any] | None = None,
        conditioner: Mapping[str, Any] | None = None,
        heads: Mapping[str, Mapping[str, Any]] | None = None,
        trusted: bool = True,
    ) -> None:
        super().__init__()
        self.image_size: tuple[int, int] = height_width(image_size)

        def part(node: Mapping[str, Any] | None, name: str, **given: Any) -> Any:
            return build(node or {}, key=f"tokenizer.{name}", trusted=trusted, **given) if node or given else None

        self.space: Space | None = part(space, "space")
        # What encoder and decoder work in: its size and channels.
        seen = {"input_size": list(self.image_size)}
        reads: dict[str, int] = {}
        writes: dict[str, int] = {}
        if self.space is not None:
            self.space.requires_grad_(False)
            seen["input_size"] = list(self.space.size(self.image_size))
            reads["in_channels"] = writes["out_channels"] = self.space.channels
        self.encoder: Encoder = part(encoder, "encoder", **seen, **reads)
        self.quantizer: Quantizer = part(quantizer, "quantizer", dim=self.encoder.dim)
        self.token_dropout: TokenDropout | None = part(token_dropout, "token_dropout")
        self.conditioner: Conditioner | None = part(conditioner, "conditioner")
        if self.conditioner is not None:
            writes["condition_dim"] = self.conditioner.dim
        width = self.quantizer.out_dim
        self.decoder: Decoder = part(decoder, "decoder", dim=width, **seen, **writes)
        self.heads: ModuleDict[Head] = ModuleDict(
            {name: part(node, f"heads.{name}", dim=width) for name, node in (heads or {}).items()}
        )
        nodes: dict[str, Mapping[str, Any] | None] = {"encoder": encoder, "quantizer": quantizer, "decoder": decoder}
        nodes |= {"space": space, "token_dropout": token_dropout, "conditioner": conditioner, "heads": heads}
        self.config: dict[str, Any] = {
            "_target_": f"{type(self).__module__}.{type(self).__qualname__}",
            "image_size": list(self.image_size),
            **{name: dict(node) for name, node in nodes.items() if node},
        }
        self.taps = FeatureTaps()
        self._check_grid()  # an image size that cannot work fails here too, before the first batch
        if self.token_dropout is not None:
            from .token_dropout.compatibility import check_fit

            check_fit(self.token_dropout, self.quantizer, self.decoder, self.heads, self.stream_shapes())

    # -- training ---------------------------------------------------------------------------------------------------

    def forward(self, images: Tensor, conditions: Tensor | None = None) -> TokenizerOutput:
        seen = images if self.space is None else self.space.encode(images)
        latents = self.encoder(seen)
        quantized = self.quantizer(latents)
        codes = quantized.codes if self.token_dropout is None else self.token_dropout(quantized.codes)
        given = {} if self.conditioner is None else {"conditions": conditions}
        decoder_losses = self.decoder.training_losses(codes, seen, **given) if self.training else {}
        reconstruction = self.decode(codes, conditions=conditions) if self.decoder.cheap_sample else None
        heads = {name: head(codes) for name, head in self.heads.items()}
        return TokenizerOutput(latents, quantized, reconstruction, decoder_losses, heads, self.taps.collect())

    def conditions_of(self, batch: Mapping[str, Any]) -> Tensor | None:
        """What the decoder reads in addition to codes; None for tokenizers without a conditioner."""
        if self.conditioner is None:
            return None
        if batch.get("caption") is None:
            conditioner = type(self.conditioner).__name__
            raise UserError(
                f"data: these images come without captions, which tokenizer.conditioner ({conditioner}) reads; take "
                "data that has some (data=generated does; data=folder reads captions.jsonl and NAME.txt)"
            )
        numbers = self.conditioner.caption_numbers
        return self.conditioner(batch["caption"] if numbers is None else numbers.of(batch))

    @property
    def last_layer(self) -> Tensor | None:
        return self.decoder.last_layer

    def set_update(self, update: int) -> None:
        self.quantizer.set_update(update)

    # -- use --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def quantize(self, images: Tensor, *, num_tokens: int | Sequence[int] | None = None) -> Quantized:
        """Encode and quantize, all that the quantizer says (codes, indices, stats).

        num_tokens: how many tokens an image keeps, one number or one per image; for tokenizers of variable length.
        """
        self._check_images(images)
        quantized = self.quantizer(self.encoder(images if self.space is None else self.space.encode(images)))
        return quantized if num_tokens is None else self.variable().keep(quantized, num_tokens)

    @torch.no_grad()
    def tokenize(
        self,
        images: Tensor,
        *,
        num_tokens: int | Sequence[int] | None = None,
        quality: str | None = None,
        conditions: Tensor | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Images in [-1, 1] to int64 indices [B, M, K]; a dict by stream when the streams' K differ.

        With one `num_tokens` M is that number; with one per image, M is the longest and -1 stands after the shorter.
        quality: "psnr>=24", "mse<=0.01" or "l1<=0.05" instead: each image keeps the shortest prefix that reaches it
        (`shortest_prefixes` in quality.py says how it is found; `conditions` are for decoders that read captions).
        """
        if quality is None:
            indices = self.quantize(images, num_tokens=num_tokens).indices
        elif num_tokens is not None:
            raise UserError(f"num_tokens={num_tokens} and quality={quality} both say how many tokens; give one")
        else:
            from .quality import Quality, shortest_prefixes

            found = shortest_prefixes(self, images, Quality.parse(quality), conditions=conditions)
            found.warn_of_missed(quality)
            indices = found.quantized.indices
        if not indices:
            raise UserError(
                f"this tokenizer is continuous ({type(self.quantizer).__name__}) and has no indices; "
                "`imtok quantize` makes a discrete one of it"
            )
        if len({t.shape[-1] for t in indices.values()}) > 1:
            return indices
        return torch.cat(list(indices.values()), dim=1)

    @torch.no_grad()
    def detokenize(
        self,
        indices: Tensor | dict[str, Tensor],
        *,
        conditions: Tensor | None = None,
        image_size: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Indices to images in [-1, 1]; `image_size` where they were made from images of another size.

        conditions: `tokenizer.conditioner(captions)`, for tokenizers that have one.
        generator: for decoders that draw noise; without one the same indices give the same image.
        """
        size = height_width(image_size) if image_size is not None else self.image_size
        if isinstance(indices, Tensor):
            if self.token_dropout is not None:
                indices = self.token_dropout.padded(indices, sum(s.length for s in self.index_layout(size)))
            indices = split_by_stream(indices, self.index_layout(size), size)
        check_entries(indices, self.index_layout(size))
        codes = self.quantizer.indices_to_codes(indices, self.stream_shapes(size))
        if self.token_dropout is not None:
            codes = {name: hidden_as_zero(stream) for name, stream in codes.items()}
        return self.decode(codes, conditions=conditions, generator=generator).clamp(-1, 1)

    @torch.no_grad()
    def reconstruct(
        self,
        images: Tensor,
        *,
        conditions: Tensor | None = None,
        num_tokens: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Through the codes and back, clamped to [-1, 1]."""
        codes = self.quantize(images, num_tokens=num_tokens).codes
        return self.decode(codes, conditions=conditions, generator=generator).clamp(-1, 1)

    def decode(
        self, codes: Latents, *, conditions: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Codes to images, unclamped."""
        given: dict[str, Any] = {}
        if generator is not None:
            if not self.decoder.draws_noise:
                decoder = type(self.decoder).__name__
                raise UserError(f"generator: tokenizer.decoder ({decoder}) draws no noise; leave it out")
            given["generator"] = generator
        if self.conditioner is not None:
            if conditions is None:
                raise UserError("conditions: this tokenizer's decoder reads captions; tokenizer.conditioner(captions)")
            given["conditions"] = conditions
        made = self.decoder(codes, **given)
        return made if self.space is None else self.space.decode(made)

    # -- facts ------------------------------------------------------------------------------------------------------

    def stream_shapes(self, image_size: tuple[int, int] | None = None) -> dict[str, StreamShape]:
        size = image_size or self.image_size
        return self.encoder.stream_shapes(size if self.space is None else self.space.size(size))

    def index_layout(self, image_size: tuple[int, int] | None = None) -> tuple[IndexSegment, ...]:
        try:
            return self.quantizer.index_layout(self.stream_shapes(image_size))
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"data.image_size={list(image_size or self.image_size)}: {error}") from error

    @property
    def num_tokens(self) -> int:
        """Indices an image has along M at the trained size."""
        return sum(segment.length for segment in self.index_layout())

    @property
    def codebook_size(self) -> int | tuple[int, ...]:
        """Entries of the codebook; a tuple when there are several that differ in size or number."""
        sizes = {segment.vocabulary for segment in self.index_layout()}
        if len(sizes) == 1 and len(set(next(iter(sizes)))) == 1 and len(next(iter(sizes))) == 1:
            return next(iter(sizes))[0]
        return tuple(k for vocabulary in sorted(sizes) for k in vocabulary)

    @property
    def bits_per_image(self) -> float:
        """Nominal: the sum of log2 of every index's vocabulary, at the trained size."""
        return self.quantizer.bits(self.stream_shapes())

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def variable(self) -> TokenDropout:
        """The token dropout, for those who ask for a number of tokens; a UserError where every image has all."""
        if self.token_dropout is None:
            raise UserError(
                f"num_tokens, quality: this tokenizer always has {self.num_tokens} tokens; one of variable length is "
                "trained with tokenizer/token_dropout=NAME"
            )
        return self.token_dropout

    def _check_grid(self) -> None:
        grids = [s.grid for s in self.index_layout() or self.stream_shapes().values()]
        if self.decoder.needs_grid and not any(grids):
            raise UserError(
                f"tokenizer.decoder: {type(self.decoder).__name__} decodes a grid of codes, and those of "
                f"tokenizer.encoder ({type(self.encoder).__name__}) have none; tokenizer/decoder=mask_token_vit, "
                "cnn_qformer, rotary_latents or flow takes such"
            )

    def _check_images(self, images: Tensor) -> None:
        if images.ndim != 4 or images.shape[1] != 3:
            raise UserError(f"images have shape {list(images.shape)}; expected [batch, 3, height, width]")
        if not images.is_floating_point():
            raise UserError(f"images are {images.dtype}; expected floats in [-1, 1]: x / 127.5 - 1")
        self.index_layout((images.shape[-2], images.shape[-1]))

    # -- files ------------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str, **facts: Any) -> None:
        from .hub import save_pretrained

        save_pretrained(self, folder, **facts)

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str, **options: Any) -> "Tokenizer":
        from .hub import from_pretrained

        return from_pretrained(path_or_hub_id, **options)
