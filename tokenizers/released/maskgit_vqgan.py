"""MaskGIT's VQGAN in the PyTorch form that bytedance/1d-tokenizer published (maskgit-vqgan-imagenet-f16-256.bin)."""

import re
from collections.abc import Mapping
from typing import ClassVar

import torch

from ...common.types import Grid
from ...layers.resnet import to_tokens
from ..quantizers.vq import VQ
from ..tokenizer import Tokenizer
from .base import Node, ReleasedFamily, Settings, State, Tensors, of_class
from .grid_cnn import grid_outputs, quantize_in_training
from .seed_voken import block_name, last_number, level_sizes


class MaskgitVQGAN(ReleasedFamily):
    systems: ClassVar[tuple[str, ...]] = ("maskgit_vqgan",)

    def tokenizer_node(self, state: State, *, image_size: Grid, constructor: Settings) -> Node:
        codebook_size, dim = state["quantize.embedding.weight"].shape
        channels = state["encoder.conv_in.weight"].shape[0]
        return {
            "_target_": "imtok.tokenizers.tokenizer.Tokenizer",
            "image_size": list(image_size),
            "encoder": {
                "_target_": "imtok.tokenizers.encoders.cnn_maskgit.CNNMaskgitEncoder",
                "dim": dim,
                **level_sizes(state, "encoder.down", channels=channels),
            },
            "quantizer": {"_target_": "imtok.tokenizers.quantizers.vq.VQ", "codebook_size": codebook_size},
            "decoder": {
                "_target_": "imtok.decoders.cnn_maskgit.CNNMaskgitDecoder",
                **level_sizes(state, "decoder.up", channels=None),
            },
        }

    def rename(self, state: State, constructor: Settings) -> Mapping[str, str | None]:
        return {name: _our_name(name, state) for name in state}

    def outputs(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        # The published network works in [0, 1], its fixtures too.
        out = grid_outputs(tokenizer, {**io, "image": 2 * io["image"] - 1})
        out["decoded"] = (out["decoded"] + 1) / 2
        out["decoded_clamped"] = out["decoded"].clamp(0, 1)
        losses = quantize_in_training(tokenizer, io["z"]).losses
        # The swapped order of VQGAN's beta (methods sheet, section 1): commitment 1, codebook 0.25.
        beta = constructor.get("quantizer", {}).get("commitment_cost", 0.25)
        out["quantizer_loss"] = losses["commit"] + beta * losses["codebook"]
        out["mse_z_quantized"] = losses["commit"]
        z_BND = to_tokens(io["z"])[:, : io["soft_code"].shape[1]]
        distances = torch.cdist(z_BND, of_class(tokenizer.quantizer, VQ).effective_codebook()).square()
        out["soft_code"] = (-distances).softmax(dim=-1).detach()
        return out


def _our_name(theirs: str, all_names: State) -> str | None:
    if theirs == "quantize.embedding.weight":
        return "quantizer.codebook"
    if m := re.match(r"(encoder|decoder)\.mid\.(\d+)\.(.+)", theirs):
        return f"{m[1]}.middle.{m[2]}.{block_name(m[3])}"
    if m := re.match(r"(encoder\.down|decoder\.up)\.(\d+)\.(block|upsample_conv)\.(.+)", theirs):
        side, level = m[1].split(".")[0], int(m[2])
        stem = f"{side}.levels.{level if side == 'encoder' else last_number(all_names, m[1]) - level}"
        if m[3] == "block":
            number, _, inner = m[4].partition(".")
            return f"{stem}.{number}.{block_name(inner)}"
        return f"{stem}.{last_number(all_names, f'{m[1]}.{level}.block') + 1}.conv.{m[4]}"
    return theirs if re.match(r"(encoder|decoder)\.(conv_in|norm_out|conv_out)\.", theirs) else None
