"""VQGAN (CompVis/taming-transformers) and LlamaGen (FoundationVision/LlamaGen): one network, two ways of naming it.

Names are brought to VQGAN's first (`encoder.down.2.block.0.conv1`), then to ours (`encoder.levels.2.0.conv1`).
LlamaGen numbers the decoder's levels in run order, VQGAN by resolution: the one difference that is not a rename.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...common.types import Grid, Quantized, Stream, height_width
from ...layers.resnet import to_grid, to_tokens
from ..encoders.cnn import CNNEncoder
from ..tokenizer import Tokenizer
from .base import Node, ReleasedFamily, Settings, State, Tensors, of_class, quantized_in_training

OUR_BLOCK_NAMES = {"nin_shortcut": "skip", "proj_out": "project"}
OUR_TOP_NAMES = {
    "quant_conv": "encoder.project",
    "post_quant_conv": "decoder.project",
    "quantize.embedding.weight": "quantizer.codebook",
}


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
        encoder = network_sizes(taming, "encoder", "down")
        decoder = network_sizes(taming, "decoder", "up")
        return {
            "_target_": "imtok.tokenizers.tokenizer.Tokenizer",
            "image_size": list(image_size),
            "encoder": {
                "_target_": "imtok.tokenizers.encoders.cnn.CNNEncoder",
                "dim": taming["quant_conv.weight"].shape[0],
                **encoder,
            },
            "quantizer": self.quantizer_node(taming, constructor),
            "decoder": {"_target_": "imtok.decoders.cnn.CNNDecoder", **decoder},
        }

    def quantizer_node(self, taming: State, constructor: Settings) -> dict[str, Any]:
        return {
            "_target_": self.quantizer_target,
            "codebook_size": taming["quantize.embedding.weight"].shape[0],
            **self.quantizer_settings(constructor),
        }

    def quantizer_settings(self, constructor: Settings) -> dict[str, Any]:
        return {"unit_length": False}

    def rename(self, state: State, constructor: Settings) -> Mapping[str, str | None]:
        to_taming = self.taming_names(state)
        taming_names = set(to_taming.values())
        return {name: our_name(theirs, taming_names) for name, theirs in to_taming.items()}

    def outputs(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
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
        levels = 1 + max(
            (int(m[1]) for m in map(re.compile(r"decoder\.conv_blocks\.(\d+)\.").match, state) if m), default=-1
        )
        middle = {"0": "block_1", "1": "attn_1", "2": "block_2"}
        names = {}
        for name in state:
            theirs = re.sub(r"^(encoder|decoder)\.mid\.([012])\.", lambda m: f"{m[1]}.mid.{middle[m[2]]}.", name)
            theirs = re.sub(r"^encoder\.conv_blocks\.(\d+)\.", r"encoder.down.\1.", theirs)
            theirs = re.sub(
                r"^decoder\.conv_blocks\.(\d+)\.", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.", theirs
            )
            names[name] = re.sub(r"^((?:encoder\.down|decoder\.up)\.\d+)\.res\.", r"\1.block.", theirs)
        return names

    def quantizer_settings(self, constructor: Settings) -> dict[str, Any]:
        settings: dict[str, Any] = {"unit_length": constructor.get("codebook_l2_norm", True)}
        if constructor.get("entropy_loss_ratio"):
            settings["entropy_temperature"] = 0.01
        return settings

    def outputs(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        out = grid_outputs(tokenizer, io)
        losses = quantize_in_training(tokenizer, io["z"]).losses
        out["codebook_loss"] = losses["codebook"]
        out["commitment_loss"] = constructor.get("commit_loss_beta", 0.25) * losses["commit"]
        out["entropy_loss"] = constructor.get("entropy_loss_ratio", 0.0) * losses.get("entropy", torch.zeros(()))
        return out


def network_sizes(taming: State, part: str, levels_name: str) -> dict[str, Any]:
    """Constructor arguments of our encoder or decoder, read off VQGAN-named shapes."""
    pattern = re.compile(rf"{part}\.{levels_name}\.(\d+)\.(block|attn)\.(\d+)\.")
    found = [(int(m[1]), m[2], int(m[3])) for m in map(pattern.match, taming) if m]
    if not found:
        raise KeyError(f"{part}.{levels_name}.0.block.0.conv1.weight")
    levels = 1 + max(level for level, _, _ in found)
    blocks = 1 + max(block for _, kind, block in found if kind == "block")
    widths = [taming[f"{part}.{levels_name}.{i}.block.0.conv1.weight"].shape[0] for i in range(levels)]
    if part == "encoder":
        channels, z_channels = taming["encoder.conv_in.weight"].shape[0], taming["encoder.conv_out.weight"].shape[0]
    else:
        # No tensor shows the decoder's `ch`; any common divisor of its widths builds the same layers.
        channels, z_channels = math.gcd(*widths), taming["decoder.conv_in.weight"].shape[1]
        blocks -= 1  # the decoder has one more than its `num_res_blocks`
    return {
        "channels": channels,
        "channel_multipliers": [width // channels for width in widths],
        "blocks_per_level": blocks,
        "attention_levels": sorted({level for level, kind, _ in found if kind == "attn"}),
        "z_channels": z_channels,
    }


def our_name(taming_name: str, all_names: set[str]) -> str | None:
    for theirs, ours in OUR_TOP_NAMES.items():
        if taming_name == theirs or taming_name.startswith(theirs + "."):
            return ours + taming_name.removeprefix(theirs)
    if m := re.match(r"(encoder|decoder)\.mid\.(block_1|attn_1|block_2)\.(.+)", taming_name):
        return f"{m[1]}.middle.{['block_1', 'attn_1', 'block_2'].index(m[2])}.{_inner(m[3])}"
    if m := re.match(r"(encoder\.down|decoder\.up)\.(\d+)\.(block|attn|downsample|upsample)\.(.+)", taming_name):
        stem, level, kind, rest = m[1], int(m[2]), m[3], m[4]
        side = stem.split(".")[0]
        our_level = level if side == "encoder" else _level_count(all_names, stem) - 1 - level
        # Our level is one sequence: block (attention) block (attention) ... resampling.
        has_attention = any(n.startswith(f"{stem}.{level}.attn.") for n in all_names)
        step = 2 if has_attention else 1
        if kind in ("block", "attn"):
            number, inner = rest.split(".", 1)
            return f"{side}.levels.{our_level}.{int(number) * step + (kind == 'attn')}.{_inner(inner)}"
        blocks = len({n.split(".")[4] for n in all_names if n.startswith(f"{stem}.{level}.block.")})
        return f"{side}.levels.{our_level}.{blocks * step}.{rest}"
    if re.match(r"(encoder|decoder)\.(conv_in|norm_out|conv_out)\.", taming_name):
        return taming_name
    return None


def _level_count(all_names: set[str], stem: str) -> int:
    return 1 + max(int(n.split(".")[2]) for n in all_names if n.startswith(stem + "."))


def _inner(name: str) -> str:
    head, _, tail = name.partition(".")
    return f"{OUR_BLOCK_NAMES.get(head, head)}.{tail}"


@torch.no_grad()
def grid_outputs(tokenizer: Tokenizer, io: Tensors, **to_decoder: Tensor) -> dict[str, Tensor]:
    """The steps of one grid tokenizer, each from the stored output of the step before."""
    tokenizer.eval()
    stored_z = io["z"]
    grid = (stored_z.shape[2], stored_z.shape[3])
    out = {"encoder_out": of_class(tokenizer.encoder, CNNEncoder).features(io["image"])} if "encoder_out" in io else {}
    quantized = tokenizer.quantizer({"main": Stream(to_tokens(stored_z), grid)})
    codes_BDhw = to_grid(quantized.codes["main"].x_BND, grid)
    stored_codes = {"main": Stream(to_tokens(io["quantized"]), grid)}
    return {
        **out,
        "z": to_grid(tokenizer.encoder(io["image"])["main"].x_BND, grid),
        "indices": quantized.indices["main"].view(io["indices"].shape),
        "indices (end to end)": tokenizer.quantize(io["image"]).indices["main"].view(io["indices"].shape),
        "quantized": codes_BDhw,
        "quantized (from indices)": tokenizer.quantizer.indices_to_codes(
            {"main": io["indices"].reshape(quantized.indices["main"].shape)},
            tokenizer.stream_shapes(height_width(io["image"].shape[-2:])),
        )["main"]
        .x_BND.transpose(1, 2)
        .unflatten(2, grid),
        "decoded": tokenizer.decoder(stored_codes, **to_decoder),
    }


@torch.no_grad()
def quantize_in_training(tokenizer: Tokenizer, z_BDhw: Tensor) -> Quantized:
    latents = {"main": Stream(to_tokens(z_BDhw), height_width(z_BDhw.shape[-2:]))}
    return quantized_in_training(tokenizer.quantizer, latents)
