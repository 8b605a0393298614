"""Instella-T2I's binary tokenizer (AMD-AGI/Instella-T2I, bae/): 128 tokens of 64 bits."""

import re
from typing import ClassVar

from torch import Tensor

from ...common.types import Grid, Stream
from ..quantizers.bernoulli import Bernoulli
from ..quantizers.shared.sign import MAX_INDEX_BITS
from ..tokenizer import Tokenizer
from .base import Names, Node, ReleasedFamily, Settings, State, Tensors, of_class
from .names import count_of, renamed

OUR_NAMES = {
    "encoder.patch_embedder": "encoder.patches",
    "encoder.latent_tokens": "encoder.latents",
    "encoder.down_layers": "encoder.halvings",
    "encoder.norm_out": "encoder.norm",
    "encoder.proj_out": "encoder.project",
    "quantizer.proj.0": "quantizer.project_in",
    "quantizer.embed": "quantizer.project_out.weight",
    "decoder.input_layer": "decoder.embed",
    "decoder.mask_tokens": "decoder.mask_vector",
    "decoder.up_layers": "decoder.doublings",
    "decoder.norm_out": "decoder.norm",
    "to_pixel": "decoder.to_pixels",
}
OUR_BLOCK_NAMES = {
    "attn.q_proj": "q", "attn.k_proj": "k", "attn.v_proj": "v", "attn.o_proj": "project",
    "attn.norm_q": "q_norm", "attn.norm_k": "k_norm",
    "mlp.gate_proj": "gate", "mlp.up_proj": "up", "mlp.down_proj": "down",
    "input_layernorm": "norm1", "post_attention_layernorm": "norm2",
}  # fmt: skip
BLOCK = re.compile(r"(encoder|decoder)\.transformer_blocks\.(\d+)\.(.+)\.weight$")


class Instella(ReleasedFamily):
    systems: ClassVar[tuple[str, ...]] = ("instella_bae",)
    ignored_prefixes: ClassVar[tuple[str, ...]] = ("decoder.repa_proj.",)  # only training asks it

    def tokenizer_node(self, state: State, *, image_size: Grid, constructor: Settings) -> Node:
        bits, width = state["quantizer.proj.0.weight"].shape
        patch_size = state["encoder.patch_embedder.weight"].shape[-1]
        channels = state["encoder.patch_embedder.weight"].shape[1]
        axes = list(constructor.get("axes_dims_rope", (8, 28, 28)))
        # A fixture says all arguments and leaves the coordinates as they are; published use stretches them over 1024.
        span = constructor.get("scale") if constructor else 1024
        common = {"patch_size": patch_size, "axes": axes, "span": span}

        def resized(side: str, key: str) -> list[int]:
            layers = {name.split(".")[2] for name in state if name.startswith(f"{side}_layers.")}
            return list(constructor.get(key, (7,) if layers else ()))

        def sizes(side: str, width: int) -> dict[str, int]:
            blocks = f"{side}.transformer_blocks"
            head_dim = len(state[f"{blocks}.0.attn.norm_q.weight"])
            return {"width": width, "depth": count_of(state, blocks), "num_heads": width // head_dim}

        return {
            "encoder": {
                "_target_": "imtok.tokenizers.encoders.rotary_latents.RotaryLatentEncoder",
                "num_tokens": state["encoder.latent_tokens"].shape[1],
                "in_channels": channels,
                "halve_after": resized("encoder.down", "downsample_idx"),
                **sizes("encoder", width),
                **common,
            },
            "quantizer": {
                "_target_": "imtok.tokenizers.quantizers.bernoulli.Bernoulli",
                "bits": bits,
                "groups": -(-bits // MAX_INDEX_BITS),
                "temperature": constructor.get("train_temp", 0.1),
            },
            "decoder": {
                "_target_": "imtok.decoders.rotary_latents.RotaryLatentDecoder",
                "out_channels": channels,
                "double_after": resized("decoder.up", "upsample_idx"),
                **sizes("decoder", state["decoder.mask_tokens"].shape[-1]),
                **common,
            },
        }

    def rename(self, state: State, constructor: Settings) -> Names:
        return {name: our_name(name) for name in state}

    def convert(self, our_name: str, tensor: Tensor) -> Tensor:
        if our_name == "quantizer.project_out.weight":
            return tensor.T.contiguous()
        if our_name == "encoder.latents":
            return tensor[0]
        return tensor.flatten() if our_name == "decoder.mask_vector" else tensor

    def steps(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        quantizer = of_class(tokenizer.quantizer, Bernoulli)
        encoded = tokenizer.encoder(io["image"])
        own = quantizer(encoded)
        quantized = quantizer.quantize(io["z"])
        codes = quantizer.project_out(io["binary_code"])
        quantizer.train()
        loss = quantizer.quantize(io["z"]).losses["variance"]
        quantizer.eval()
        return {
            "encoder_out": encoded["main"].x_BND,
            "z": quantizer.project_in(encoded["main"].x_BND),
            "binary_code": quantized.codes_BND,
            "indices": quantized.indices_BNK[..., 0],
            "indices (end to end)": own.indices["main"][..., 0],
            "quantized": codes,
            "quantized (end to end)": own.codes["main"].x_BND,
            "decoded": tokenizer.decode({"main": Stream(codes)}),
            "codebook_loss": loss,
        }


def our_name(theirs: str) -> str | None:
    if m := BLOCK.match(theirs):
        inner = OUR_BLOCK_NAMES.get(m[3])
        return f"{m[1]}.blocks.{m[2]}.{inner}.weight" if inner else None
    return renamed(theirs, OUR_NAMES)
