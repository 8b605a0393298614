"""Which parts a token dropout goes with: what training leaves out must be what decoding leaves out."""

from collections.abc import Mapping

from ...common.errors import UserError
from ...common.types import StreamShape
from ...decoders.base import Decoder
from ...decoders.heads.base import Head
from ..quantizers.base import Quantizer
from .base import TokenDropout

KEY = "tokenizer.token_dropout"
DECODERS = "mask_token_vit, proxy_codes, cnn_qformer or rotary_latents"


def check_fit(
    dropout: TokenDropout,
    quantizer: Quantizer,
    decoder: Decoder,
    heads: Mapping[str, Head],
    shapes: Mapping[str, StreamShape],
) -> None:
    """A UserError where a prefix would not be an image that training has seen, or no prefix at all."""
    name = type(dropout).__name__
    if isinstance(quantizer.out_dim, dict):
        streams = ", ".join(quantizer.out_dim)
        raise UserError(
            f"{KEY}={name}: shortens the one stream main, but the codes have {streams}; leave it out (null)"
        )
    if not quantizer.prefix_decodes:
        raise UserError(
            f"{KEY}={name}: the codes of {type(quantizer).__name__} are made of all indices together (scales, or "
            "attention behind the codebook), so a prefix says nothing; take a quantizer of single tokens (vq, fsq, "
            "residual_vq ...), or leave the dropout out (null)"
        )
    if "main" in shapes:
        dropout.check_lengths(shapes["main"].num_tokens)
    if dropout.cuts and not decoder.any_length:
        raise UserError(
            f"{KEY}={name}: training cuts the tail off, but {type(decoder).__name__} has a place for every token, "
            "which decoding would then fill; take tokenizer/token_dropout=nested, which fills it in training too, or "
            f"tokenizer/decoder={DECODERS}"
        )
    for key, head in heads.items():
        if dropout.cuts and not head.any_length:
            raise UserError(
                f"{KEY}={name}: training cuts the tail off, but tokenizer.heads.{key} ({type(head).__name__}) reads "
                "all tokens; take tokenizer/token_dropout=nested, or a pooled head"
            )
