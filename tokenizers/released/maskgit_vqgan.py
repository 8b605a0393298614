"""MaskGIT's VQGAN in the PyTorch form that bytedance/1d-tokenizer published (maskgit-vqgan-imagenet-f16-256.bin)."""

from typing import ClassVar

import torch

from ...common.types import Grid
from ...layers.resnet import to_tokens
from ..quantizers.vq import VQ
from ..tokenizer import Tokenizer
from .base import Names, Node, ReleasedFamily, Settings, State, Tensors, of_class
from .grid_cnn import grid_outputs, level_sizes, our_name, quantize_in_training


class MaskgitVQGAN(ReleasedFamily):
    systems: ClassVar[tuple[str, ...]] = ("maskgit_vqgan",)

    def tokenizer_node(self, state: State, *, image_size: Grid, constructor: Settings) -> Node:
        codebook_size, dim = state["quantize.embedding.weight"].shape
        return {
            "encoder": {
                "_target_": "imtok.tokenizers.encoders.cnn_maskgit.CNNMaskgitEncoder",
                "dim": dim,
                **level_sizes(state, "encoder.down"),
            },
            "quantizer": {"_target_": "imtok.tokenizers.quantizers.vq.VQ", "codebook_size": codebook_size},
            "decoder": {
                "_target_": "imtok.decoders.cnn_maskgit.CNNMaskgitDecoder",
                **level_sizes(state, "decoder.up"),
            },
        }

    def rename(self, state: State, constructor: Settings) -> Names:
        return {name: our_name(name, state) for name in state}

    def steps(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
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
