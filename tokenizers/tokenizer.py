"""Tokenizer: builds encoder, quantizer and decoder from their YAML nodes and joins them. The only thing exported."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..configs.errors import UserError
from ..configs.instantiate import build
from .types import IndexSegment, Latents, Quantized, StreamShape, TokenizerOutput


class Tokenizer(nn.Module):
    """Images [B, 3, H, W] in [-1, 1] to indices [B, M, K] and back.

    image_size: what it was trained at (an int, or height and width); fully convolutional parts take others too.
    encoder, quantizer, decoder: YAML nodes; the quantizer is given `dim` by the encoder, the decoder by the quantizer.
    """

    builds_own_parts: ClassVar[bool] = True

    def __init__(
        self,
        *,
        image_size: int | Sequence[int],
        encoder: Mapping[str, Any],
        quantizer: Mapping[str, Any],
        decoder: Mapping[str, Any],
        trusted: bool = True,
    ) -> None:
        super().__init__()
        self.image_size: tuple[int, int] = _height_width(image_size)
        self.encoder = build(encoder, key="tokenizer.encoder", trusted=trusted)
        self.quantizer = build(quantizer, key="tokenizer.quantizer", trusted=trusted, dim=self.encoder.dim)
        self.decoder = build(decoder, key="tokenizer.decoder", trusted=trusted, dim=self.quantizer.out_dim)
        self.config: dict[str, Any] = {
            "_target_": f"{type(self).__module__}.{type(self).__qualname__}",
            "image_size": list(self.image_size),
            "encoder": dict(encoder),
            "quantizer": dict(quantizer),
            "decoder": dict(decoder),
        }
        self.index_layout()  # an image size that cannot work fails here, before the first batch

    # -- training ---------------------------------------------------------------------------------------------------

    def forward(self, images: Tensor) -> TokenizerOutput:
        latents = self.encoder(images)
        quantized = self.quantizer(latents)
        decoder_losses = self.decoder.training_losses(quantized.codes, images) if self.training else {}
        reconstruction = self.decoder(quantized.codes) if self.decoder.cheap_sample else None
        return TokenizerOutput(latents, quantized, reconstruction, decoder_losses)

    @property
    def last_layer(self) -> nn.Parameter | None:
        return self.decoder.last_layer

    def set_update(self, update: int) -> None:
        self.quantizer.set_update(update)

    # -- use --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def quantize(self, images: Tensor) -> Quantized:
        """Encode and quantize, all that the quantizer says (codes, indices, stats)."""
        self._check_images(images)
        return self.quantizer(self.encoder(images))

    @torch.no_grad()
    def tokenize(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """Images in [-1, 1] to int64 indices [B, M, K]; a dict by stream when the streams' K differ."""
        indices = self.quantize(images).indices
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
        image_size: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Indices to images in [-1, 1]; `image_size` where they were made from images of another size.

        generator: for decoders that draw noise; without one the same indices give the same picture.
        """
        size = _height_width(image_size) if image_size is not None else self.image_size
        layout = self.index_layout(size)
        if isinstance(indices, Tensor):
            indices = _split_by_stream(indices, layout, size)
        codes = self.quantizer.indices_to_codes(indices, self.encoder.stream_shapes(size))
        return self.decode(codes, generator=generator).clamp(-1, 1)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor:
        """Through the codes and back, clamped to [-1, 1]."""
        return self.decode(self.quantize(images).codes).clamp(-1, 1)

    def decode(self, codes: Latents, *, generator: torch.Generator | None = None) -> Tensor:
        """Codes to images, unclamped."""
        if generator is None:
            return self.decoder(codes)
        if not self.decoder.draws_noise:
            raise UserError(
                f"generator: tokenizer.decoder ({type(self.decoder).__name__}) draws no noise; leave it out"
            )
        return self.decoder(codes, generator=generator)

    # -- facts ------------------------------------------------------------------------------------------------------

    def stream_shapes(self, image_size: tuple[int, int] | None = None) -> dict[str, StreamShape]:
        return self.encoder.stream_shapes(image_size or self.image_size)

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


def _height_width(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _split_by_stream(
    indices: Tensor, layout: tuple[IndexSegment, ...], image_size: tuple[int, int]
) -> dict[str, Tensor]:
    """[B, M, K] to {stream: [B, M_stream, K]}, in the order the layout declares."""
    lengths: dict[str, int] = {}
    for segment in layout:
        lengths[segment.stream] = lengths.get(segment.stream, 0) + segment.length
    total, codebooks = sum(lengths.values()), len(layout[0].vocabulary)
    if indices.ndim != 3 or indices.shape[1] != total or indices.shape[2] != codebooks:
        raise UserError(
            f"indices have shape {list(indices.shape)}; images of {image_size[0]}x{image_size[1]} have "
            f"[batch, {total}, {codebooks}] (pass image_size= for another size)"
        )
    limits = torch.tensor([max(s.vocabulary) for s in layout])
    if indices.numel() and int(indices.max()) >= int(limits.max()):
        raise UserError(f"indices reach {int(indices.max())}, but the codebook has {int(limits.max())} entries")
    return dict(zip(lengths, indices.split(list(lengths.values()), dim=1), strict=True))
