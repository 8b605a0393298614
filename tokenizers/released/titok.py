"""TiTok, TA-TiTok (bytedance/1d-tokenizer) and One-D-Piece (turingmotors/One-D-Piece): ViTs with latent tokens.

The published networks see and paint [0, 1], which `image_range: unit` says.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from ...common.types import Grid, Quantized, Stream
from ...decoders.proxy_codes import ProxyCodeDecoder
from ...layers.resnet import to_tokens
from ..tokenizer import Tokenizer
from .base import Names, Node, ReleasedFamily, Settings, State, Tensors, of_class
from .grid_cnn import grid_outputs, level_sizes, quantize_in_training
from .grid_cnn import our_name as name_in_vqgan
from .names import count_of

QUANTIZERS = "imtok.tokenizers.quantizers"
EITHER_SIDE = {
    "class_embedding": "class_token",
    "positional_embedding": "positions",
    "ln_pre": "transformer.norm_in",
    "ln_post": "transformer.norm_out",
    "transformer": "transformer.blocks",
}
ENCODER = EITHER_SIDE | {
    "patch_embed": "patches",
    "latent_token_positional_embedding": "query_positions",
    "conv_out": "project",
}
DECODER = EITHER_SIDE | {
    "decoder_embed": "embed",
    "mask_token": "mask_token",
    "latent_token_positional_embedding": "latent_positions",
    "text_guidance_proj": "condition_embed",
    "text_guidance_positional_embedding": "condition_positions",
}
BLOCK = {
    "ln_1": "norm1",
    "ln_2": "norm2",
    "attn.in_proj_weight": "attn.qkv.weight",
    "attn.in_proj_bias": "attn.qkv.bias",
    "attn.out_proj": "attn.proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
FULL_NAMES = {
    "latent_tokens": "encoder.queries",
    "quantize.embedding.weight": "quantizer.codebook",
    "quantize.embed_prob": "quantizer.revival.usage",
    "pixel_quantize.embedding.weight": "decoder.codebook",
}


class TiTok(ReleasedFamily):
    systems: ClassVar[tuple[str, ...]] = ("titok", "titok_single_stage", "ta_titok")
    ignored_prefixes: ClassVar[tuple[str, ...]] = ("text_encoder.", "clip_encoder.")

    def tokenizer_node(self, state: State, *, image_size: Grid, constructor: Settings) -> Node:
        patch_size = state["encoder.patch_embed.weight"].shape[-1]
        both: dict[str, Any] = {"image_size": list(image_size), "num_tokens": len(state["latent_tokens"])}
        node: dict[str, Any] = {
            "encoder": {
                "_target_": "imtok.tokenizers.encoders.latent_vit.LatentViTEncoder",
                "dim": len(state["encoder.conv_out.weight"]),
                "patch_size": patch_size,
                "legacy_reshape": is_two_stage(state),
                "image_range": "unit",
                **both,
                **transformer_sizes(state, "encoder", constructor),
            },
            "quantizer": quantizer_node(state, constructor),
        }
        body: dict[str, Any] = {**both, **transformer_sizes(state, "decoder", constructor)}
        if is_two_stage(state):
            node["decoder"] = {
                "_target_": "imtok.decoders.proxy_codes.ProxyCodeDecoder",
                "patch_size": patch_size,
                **(first_stage_sizes(state, patch_size) if is_first_stage(state, constructor) else proxy_sizes(state)),
                **body,
            }
            return node
        node["decoder"] = {
            "_target_": "imtok.decoders.mask_token_vit.MaskTokenViTDecoder",
            "patch_size": math.isqrt(len(state["decoder.ffn.0.weight"]) // 3),
            "image_range": "unit",
            **body,
        }
        if "decoder.text_guidance_proj.weight" in state:
            length = len(state["decoder.text_guidance_positional_embedding"])
            node["decoder"]["condition_tokens"] = length
            node["conditioner"] = {
                "_target_": "imtok.tokenizers.conditioners.clip_text.CLIPText",
                "width": state["decoder.text_guidance_proj.weight"].shape[1],
                "length": length,
            }
        return node

    def rename(self, state: State, constructor: Settings) -> Names:
        return {name: our_name(name, state) for name in state}

    def convert(self, our_name: str, tensor: Tensor) -> Tensor:
        if our_name.endswith(".class_token"):
            return tensor[None]
        if our_name == "quantizer.revival.usage":
            return tensor * len(tensor)  # shares of all tokens there, of an even spread here
        if our_name.startswith(("encoder.project", "decoder.to_")) and tensor.ndim == 4:
            return tensor.flatten(1)  # 1x1 convolutions there, linear layers here
        return tensor

    def not_in_release(self, own: State) -> State:
        return {name: value for name, value in own.items() if name.endswith("pixel_range.bounds")}

    def steps(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        given: dict[str, Any] = {"conditions": io["text_guidance"]} if tokenizer.conditioner is not None else {}
        # The published network works in [0, 1], its fixtures too.
        out = grid_outputs(tokenizer, {**io, "image": 2 * io["image"] - 1}, **given)
        out["decoded"] = (out["decoded"] + 1) / 2
        if given:
            out["text_guidance"] = given["conditions"]  # the fixtures come without a text tower
        if "indices" in io:
            losses = quantize_in_training(tokenizer, io["z"]).losses
            out["commitment_loss"] = settings_of(constructor).get("commitment_cost", 0.25) * losses["commit"]
            out["codebook_loss"] = losses["codebook"]
            out["quantizer_loss"] = out["commitment_loss"] + out["codebook_loss"]
        stored = {"main": Stream(to_tokens(io["quantized"]))}
        if "proxy_logits" in io:
            decoder = of_class(tokenizer.decoder, ProxyCodeDecoder)
            out["proxy_logits"] = decoder.logits(stored).transpose(1, 2).unflatten(2, decoder.vit.grid)
        for name in io:
            if kept := re.fullmatch(r"decoded_keep(\d+)", name):
                shown = tokenizer.variable().keep(Quantized(stored, {}), int(kept[1]))
                out[name] = (tokenizer.decode(shown.codes, **given) + 1) / 2
        return out


class OneDPiece(TiTok):
    """TiTok's two-stage network, of any length."""

    systems: ClassVar[tuple[str, ...]] = ("one_d_piece",)

    def tokenizer_node(self, state: State, *, image_size: Grid, constructor: Settings) -> Node:
        node = super().tokenizer_node(state, image_size=image_size, constructor=constructor)
        return node | {"token_dropout": {"_target_": "imtok.tokenizers.token_dropout.tail_drop.TailDrop"}}


def is_two_stage(state: State) -> bool:
    """Such models have a head of two layers, and reshape their latents the old way."""
    return "decoder.ffn.2.weight" in state


def is_first_stage(state: State, constructor: Settings) -> bool:
    """Such weights lack the proxy's half, which training reads from another file."""
    return "pixel_quantize.embedding.weight" not in state and settings_of(constructor).get("finetune_decoder") is False


def proxy_sizes(state: State) -> dict[str, Any]:
    codebook_size, code_dim = state["pixel_quantize.embedding.weight"].shape
    sizes = {"codebook_size": codebook_size, "code_dim": code_dim, **level_sizes(state, "pixel_decoder.up")}
    return {"trains": "pixels", **sizes}


def first_stage_sizes(state: State, patch_size: int) -> dict[str, Any]:
    """Of a proxy that no weights are for: as small as can be."""
    levels = {"channels": 32, "channel_multipliers": [1] * patch_size.bit_length(), "blocks_per_level": 1}
    return {"trains": "codes", "codebook_size": len(state["decoder.ffn.2.weight"]), "code_dim": 32, **levels}


def settings_of(constructor: Settings) -> Mapping[str, Any]:
    return constructor.get("model", constructor).get("vq_model", {})


def transformer_sizes(state: State, side: str, constructor: Settings) -> dict[str, int]:
    width = len(state[f"{side}.ln_pre.weight"])
    depth = count_of(state, f"{side}.transformer")
    heads = constructor.get(side, {}).get("heads", max(1, width // 64))  # no shape shows them; published: 64 wide
    return {"width": width, "depth": depth, "num_heads": heads}


def quantizer_node(state: State, constructor: Settings) -> dict[str, Any]:
    if not any(name.startswith("quantize.") for name in state):
        return {"_target_": f"{QUANTIZERS}.kl.KL", "project": False}
    clustering = "quantize.embed_prob" in state
    return {
        "_target_": f"{QUANTIZERS}.vq.VQ",
        "codebook_size": len(state["quantize.embedding.weight"]),
        "unit_length": settings_of(constructor).get("use_l2_norm", is_two_stage(state)),
        **({"reset": "clustering", "usage_decay": 0.99} if clustering else {}),
    }


def our_name(theirs: str, state: State) -> str | None:
    if theirs in FULL_NAMES:
        return FULL_NAMES[theirs]
    if theirs.startswith("pixel_decoder."):
        vqgan = {name.removeprefix("pixel_"): tensor for name, tensor in state.items()}
        inner = name_in_vqgan(theirs.removeprefix("pixel_"), vqgan)
        return None if inner is None else inner.replace("decoder.", "decoder.pixels.", 1)
    if m := re.fullmatch(r"decoder\.ffn\.(\d+)\.(weight|bias)", theirs):
        return f"decoder.to_logits.{m[1]}.{m[2]}" if is_two_stage(state) else f"decoder.to_patches.{m[2]}"
    if theirs.startswith("decoder.conv_out."):
        return theirs
    side, _, inner = theirs.partition(".")
    names, stem = (ENCODER, "encoder") if side == "encoder" else (DECODER, "decoder.vit")
    if side not in ("encoder", "decoder"):
        return None
    part, _, rest = inner.partition(".")
    if part not in names:
        return None
    if part == "transformer":
        number, _, rest = rest.partition(".")
        found = next((k for k in BLOCK if rest == k or rest.startswith(k + ".")), None)
        return found and f"{stem}.transformer.blocks.{number}.{BLOCK[found]}{rest.removeprefix(found)}"
    return f"{stem}.{names[part]}" + (f".{rest}" if rest else "")
