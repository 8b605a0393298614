"""VQGAN (CompVis/taming-transformers) and LlamaGen (FoundationVision/LlamaGen): one network, two ways of naming it.

Names are brought to VQGAN's first (`encoder.down.2.block.0.conv1`), then to ours (`encoder.levels.2.0.conv1`).
LlamaGen numbers the decoder's levels in run order, VQGAN by resolution: the one difference that is not a rename.
"""

import math
import re
from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...common.errors import UserError
from ...common.types import Grid, Quantized, Stream, height_width
from ...layers.resnet import to_grid, to_tokens
from ..encoders.cnn import CNNEncoder
from ..tokenizer import Tokenizer
from .base import Names, Node, ReleasedFamily, Settings, State, Tensors, of_class, quantized_in_training
from .names import count_of, renamed

OUR_LAYER_NAMES = {"nin_shortcut": "skip", "proj_out": "project"}
OUR_TOP_NAMES = {
    "quant_conv.": "encoder.project.",
    "post_quant_conv.": "decoder.project.",
    "quantize.embedding.weight": "quantizer.codebook",
}
MIDDLE = ("block_1", "attn_1", "block_2")  # or numbers


class Taming(ReleasedFamily):
    """The VQ variants of VQGAN."""

    systems: ClassVar[tuple[str, ...]] = ("vqgan",)
    ignored_prefixes: ClassVar[tuple[str, ...]] = ("loss.",)
    quantizer_target: ClassVar[str] = "imtok.tokenizers.quantizers.vq.VQ"

    def taming_names(self, state: State) -> dict[str, str]:
        """{name in the file: VQGAN's name}."""
        return {name: name for name in state}

    def tokenizer_node(self, state: State, *, image_size: Grid, constructor: Settings) -> Node:
        taming = {theirs: state[name] for name, theirs in self.taming_names(state).items()}
        return {
            "encoder": {
                "_target_": "imtok.tokenizers.encoders.cnn.CNNEncoder",
                "dim": taming["quant_conv.weight"].shape[0],
                **network_sizes(taming, "encoder.down"),
            },
            "quantizer": self.quantizer_node(taming, constructor),
            "decoder": {"_target_": "imtok.decoders.cnn.CNNDecoder", **network_sizes(taming, "decoder.up")},
        }

    def quantizer_node(self, taming: State, constructor: Settings) -> dict[str, Any]:
        return {
            "_target_": self.quantizer_target,
            "codebook_size": taming["quantize.embedding.weight"].shape[0],
            **self.quantizer_settings(constructor),
        }

    def quantizer_settings(self, constructor: Settings) -> dict[str, Any]:
        return {"unit_length": False}

    def rename(self, state: State, constructor: Settings) -> Names:
        to_taming = self.taming_names(state)
        taming_names = set(to_taming.values())
        return {name: our_name(theirs, taming_names) for name, theirs in to_taming.items()}

    def steps(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        out = grid_outputs(tokenizer, io)
        losses = quantize_in_training(tokenizer, io["z"]).losses
        beta = constructor.get("beta", 0.25)
        # The published order is the swapped one unless `legacy` is off (methods sheet, section 1).
        commit_weight, codebook_weight = (1.0, beta) if constructor.get("legacy", True) else (beta, 1.0)
        out["quantizer_loss"] = commit_weight * losses["commit"] + codebook_weight * losses["codebook"]
        out["mse_z_quantized"] = losses["commit"]
        return out


class LlamaGen(Taming):
    """vq_ds16 and vq_ds8: unit-length codes of width 8."""

    systems: ClassVar[tuple[str, ...]] = ("llamagen_vq16", "llamagen_vq8")
    ignored_prefixes: ClassVar[tuple[str, ...]] = ("quantize.codebook_used",)  # a usage monitor of 65536 slots

    def taming_names(self, state: State) -> dict[str, str]:
        last = count_of(state, "decoder.conv_blocks") - 1
        names = {}
        for name in state:
            theirs = re.sub(r"^encoder\.conv_blocks\.", "encoder.down.", name)
            theirs = re.sub(r"^decoder\.conv_blocks\.(\d+)\.", lambda m: f"decoder.up.{last - int(m[1])}.", theirs)
            names[name] = re.sub(r"^((?:encoder\.down|decoder\.up)\.\d+)\.res\.", r"\1.block.", theirs)
        return names

    def quantizer_settings(self, constructor: Settings) -> dict[str, Any]:
        settings: dict[str, Any] = {"unit_length": constructor.get("codebook_l2_norm", True)}
        if constructor.get("entropy_loss_ratio"):
            settings["entropy_temperature"] = 0.01
        return settings

    def steps(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        losses = quantize_in_training(tokenizer, io["z"]).losses
        return grid_outputs(tokenizer, io) | weighted(losses, constructor)


def weighted(losses: State, constructor: Settings, *, beta: float = 0.25) -> dict[str, Tensor]:
    """As LlamaGen's training code weighs them; beta: where the constructor says none."""
    return {
        "codebook_loss": losses["codebook"],
        "commitment_loss": constructor.get("commit_loss_beta", beta) * losses["commit"],
        "entropy_loss": constructor.get("entropy_loss_ratio", 0.0) * losses.get("entropy", torch.zeros(())),
    }


def level_sizes(state: State, levels: str) -> dict[str, Any]:
    """Constructor arguments of our encoder or decoder; no tensor shows the decoder's `ch`, so any divisor does."""
    widths = [len(state[f"{levels}.{i}.block.0.conv1.weight"]) for i in range(count_of(state, levels))]
    channels = len(state["encoder.conv_in.weight"]) if levels.startswith("encoder") else math.gcd(*widths)
    if any(width % channels for width in widths):
        raise UserError(f"{levels}: widths {widths} are no multiples of the first convolution's {channels}")
    return {
        "channels": channels,
        "channel_multipliers": [width // channels for width in widths],
        "blocks_per_level": count_of(state, f"{levels}.0.block"),
    }


def network_sizes(taming: State, levels: str) -> dict[str, Any]:
    """Constructor arguments of VQGAN's own encoder (encoder.down) or decoder (decoder.up)."""
    sizes = level_sizes(taming, levels)
    if levels.startswith("encoder"):
        z_channels = len(taming["encoder.conv_out.weight"])
    else:
        z_channels = taming["decoder.conv_in.weight"].shape[1]
        sizes["blocks_per_level"] -= 1  # the decoder has one more than its `num_res_blocks`
    with_attention = {int(m[1]) for m in map(re.compile(rf"{levels}\.(\d+)\.attn\.").match, taming) if m}
    return {**sizes, "attention_levels": sorted(with_attention), "z_channels": z_channels}


def our_name(theirs: str, all_names: Collection[str]) -> str | None:
    """Of a tensor of VQGAN's network or of its descendants: Open-MAGVIT2's and MaskGIT's."""
    if m := re.match(r"(encoder|decoder)\.mid(?:_block)?\.(\d+|block_1|attn_1|block_2)\.(.+)", theirs):
        return f"{m[1]}.middle.{MIDDLE.index(m[2]) if m[2] in MIDDLE else m[2]}.{_layer(m[3])}"
    if m := re.match(r"((encoder|decoder)\.(?:down|up))\.(\d+)\.(block|attn|downsample|upsample)[._](.+)", theirs):
        levels, side, level, kind, rest = m[1], m[2], int(m[3]), m[4], m[5]
        stem = f"{side}.levels.{level if side == 'encoder' else count_of(all_names, levels) - 1 - level}"
        # Our level is one sequence: block (attention) block (attention) ... resampling.
        step = 2 if any(name.startswith(f"{levels}.{level}.attn.") for name in all_names) else 1
        if kind in ("block", "attn"):
            number, _, inner = rest.partition(".")
            return f"{stem}.{int(number) * step + (kind == 'attn')}.{_layer(inner)}"
        return f"{stem}.{count_of(all_names, f'{levels}.{level}.block') * step}.{rest.replace('conv1.', 'conv.')}"
    if re.match(r"(encoder|decoder)\.(conv_in|norm_out|conv_out)\.", theirs):
        return theirs
    return renamed(theirs, OUR_TOP_NAMES)


def _layer(name: str) -> str:
    head, _, tail = name.partition(".")
    return f"{OUR_LAYER_NAMES.get(head, head)}.{tail}"


def grid_outputs(tokenizer: Tokenizer, io: Tensors, **to_decoder: Tensor) -> dict[str, Tensor]:
    """The steps of a tokenizer of one stream, each from the stored output of the step before."""
    grid = (io["quantized"].shape[2], io["quantized"].shape[3])
    quantized = tokenizer.quantizer({"main": Stream(to_tokens(io["z"]), grid)})
    out = {
        "z": to_grid(tokenizer.encoder(io["image"])["main"].x_BND, grid).view(io["z"].shape),
        "quantized": to_grid(quantized.codes["main"].x_BND, grid),
        "decoded": tokenizer.decoder({"main": Stream(to_tokens(io["quantized"]), grid)}, **to_decoder),
    }
    if "encoder_out" in io:
        out["encoder_out"] = of_class(tokenizer.encoder, CNNEncoder).features(io["image"])
    if "indices" in io:
        own, shape = quantized.indices["main"], io["indices"].shape
        shapes = tokenizer.stream_shapes(height_width(io["image"].shape[-2:]))
        again = tokenizer.quantizer.indices_to_codes({"main": io["indices"].reshape(own.shape)}, shapes)
        out["indices"] = own.view(shape)
        out["indices (end to end)"] = tokenizer.quantize(io["image"]).indices["main"].view(shape)
        out["quantized (from indices)"] = to_grid(again["main"].x_BND, grid)
    return out


def quantize_in_training(tokenizer: Tokenizer, z_BDhw: Tensor) -> Quantized:
    latents = {"main": Stream(to_tokens(z_BDhw), height_width(z_BDhw.shape[-2:]))}
    return quantized_in_training(tokenizer.quantizer, latents)
