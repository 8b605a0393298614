"""GigaTok (SilentView/GigaTok): convolutions and Q-Formers around one codebook, S-S to XL-XXL."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from ...common.errors import UserError
from ...common.types import Grid, Stream
from ...decoders.cnn_qformer import CNNQFormerDecoder
from ...layers.resnet import to_tokens
from ..encoders.cnn_qformer import CNNQFormerEncoder
from ..tokenizer import Tokenizer
from .base import Names, Node, ReleasedFamily, Settings, State, Tensors, of_class
from .grid_cnn import LlamaGen, grid_outputs, network_sizes, our_name, quantize_in_training, weighted
from .names import count_of, renamed

SIDES = {"s2to1encoder": "encoder", "s1to2decoder": "decoder"}
OUR_NAMES = {
    "s2to1encoder.encoder_embed": "encoder.embed",
    "s2to1encoder.ln_pre": "encoder.norm_map",
    "s2to1encoder.ln_post": "encoder.norm",
    "s2to1encoder.global_proj": "encoder.first_queries",
    "s2to1encoder.positional_embedding": "encoder.map_positions",
    "s2to1encoder.latent_token_positional_embedding": "encoder.query_positions",
    "s2to1encoder.conv_out": "encoder.to_z",
    "s1to2decoder.decoder_embed": "decoder.embed",
    "s1to2decoder.ln_pre": "decoder.norm_codes",
    "s1to2decoder.ln_post": "decoder.norm",
    "s1to2decoder.positional_embedding": "decoder.query_positions",
    "s1to2decoder.latent_token_positional_embedding": "decoder.code_positions",
    "s1to2decoder.conv_out": "decoder.to_map",
    "s1to2decoder.distill_mlp": "decoder.align",
}
OUR_LAYER_NAMES = {
    "self_attn": "among", "multihead_attn": "memory", "linear1": "mlp.0", "linear2": "mlp.2",
    "q_proj": "q", "k_proj": "k", "v_proj": "v", "wo": "project", "out_proj": "project",
    "gamma": "scale", "beta": "shift",
}  # fmt: skip
PACKED = re.compile(r"(.+_attn\.)in_proj_(weight|bias)$")


class GigaTok(ReleasedFamily):
    systems: ClassVar[tuple[str, ...]] = ("gigatok",)
    ignored_prefixes: ClassVar[tuple[str, ...]] = ("quantize.codebook_used",)  # a usage monitor of 65536 slots

    def packed(self, state: State) -> dict[str, list[str]]:
        """Models without query and key norms store nn.MultiheadAttention's packed projections."""
        return {m[0]: [f"{m[1]}{part}_proj.{m[2]}" for part in "qkv"] for m in map(PACKED.match, state) if m}

    def tokenizer_node(self, state: State, *, image_size: Grid, constructor: Settings) -> Node:
        if not constructor.get("multi_level_query_init", True):
            raise UserError("multi_level_query_init=false: only models whose queries begin as a pyramid are read")
        codebook_size, dim = state["quantize.embedding.weight"].shape
        num_tokens = state["s2to1encoder.latent_token_positional_embedding"].shape[0]
        aligned = "s1to2decoder.distill_mlp.4.weight" in state
        return {
            "encoder": {
                "_target_": "imtok.tokenizers.encoders.cnn_qformer.CNNQFormerEncoder",
                "dim": dim,
                "num_tokens": num_tokens,
                **cnn_sizes(state, "encoder.down"),
                **qformer_sizes(state, "s2to1encoder", constructor.get("encoder", {})),
            },
            "quantizer": {
                "_target_": "imtok.tokenizers.quantizers.vq.VQ",
                "codebook_size": codebook_size,
                "unit_length": constructor.get("codebook_l2_norm", True),
                "rotation_trick": constructor.get("rot", True),
                "entropy_temperature": 0.01 if constructor.get("entropy_loss_ratio") else None,
            },
            "decoder": {
                "_target_": "imtok.decoders.cnn_qformer.CNNQFormerDecoder",
                "num_tokens": num_tokens,
                **cnn_sizes(state, "decoder.up"),
                **qformer_sizes(state, "s1to2decoder", constructor.get("decoder", {})),
                "align_after": (constructor.get("distill_depth") or 3) if aligned else None,
                **({"align_dim": state["s1to2decoder.distill_mlp.4.weight"].shape[0]} if aligned else {}),
            },
        }

    def rename(self, state: State, constructor: Settings) -> Names:
        taming = LlamaGen().taming_names(state)
        all_names = set(taming.values())
        return {name: qformer_name(name) or our_name(theirs, all_names) for name, theirs in taming.items()}

    def convert(self, our_name: str, tensor: Tensor) -> Tensor:
        if our_name.endswith("_positions"):
            return tensor[:, 0]
        # 1x1 convolutions there, linear layers here.
        return tensor.flatten(1) if our_name.endswith((".project.weight", ".to_z.weight")) else tensor

    def steps(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        encoder = of_class(tokenizer.encoder, CNNQFormerEncoder)
        decoder = of_class(tokenizer.decoder, CNNQFormerDecoder)
        spatial, codes = encoder.features(io["image"]), {"main": Stream(to_tokens(io["quantized"]))}
        rec_spatial = decoder.map_of(codes)
        out = {
            **grid_outputs(tokenizer, io),
            **weighted(quantize_in_training(tokenizer, io["z"]).losses, constructor),
            "spatial": spatial,
            "rec_spatial": rec_spatial,
            # From the stored map: norms of one channel a group amplify its rounding ten thousandfold.
            "decoded": decoder.paint(io["rec_spatial"]),
            "fea_rec_loss": F.mse_loss(rec_spatial, spatial),
        }
        if "inner_feat" in io:
            out["inner_feat"] = tapped(decoder, codes)
        return {name: value for name, value in out.items() if name.split(" (")[0] in io}


def tapped(decoder: CNNQFormerDecoder, codes: dict[str, Stream]) -> Tensor:
    """What the alignment MLP says, which only training asks."""
    seen: list[Tensor] = []
    assert decoder.align is not None
    hook = decoder.align.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    decoder.train().map_of(codes)
    decoder.eval()
    hook.remove()
    return seen[0]


def cnn_sizes(state: State, levels: str) -> dict[str, Any]:
    taming = {theirs: state[name] for name, theirs in LlamaGen().taming_names(state).items()}
    sizes = network_sizes(taming, levels)
    return {key: value for key, value in sizes.items() if key != "attention_levels"}  # there are none


def qformer_sizes(state: State, side: str, said: Mapping[str, Any]) -> dict[str, Any]:
    width = state[f"{side}.ln_post.weight"].shape[0]
    return {
        "width": width,
        "depth": count_of(state, f"{side}.transformer"),
        "num_heads": said.get("heads", max(1, width // 64)),  # no shape shows them; every published head is 64 wide
        "qk_norm": f"{side}.transformer.0.self_attn.q_norm.weight" in state,
    }


def qformer_name(theirs: str) -> str | None:
    if m := re.match(r"(s2to1encoder|s1to2decoder)\.transformer\.(\d+)\.(.+)", theirs):
        return f"{SIDES[m[1]]}.blocks.{m[2]}.{_layers(m[3])}"
    if m := re.match(r"decoder\.adaptive\.(\d+)\.(.+)", theirs):
        return f"decoder.norms.{m[1]}.{_layers(m[2])}"
    return renamed(theirs, OUR_NAMES)


def _layers(name: str) -> str:
    return ".".join(OUR_LAYER_NAMES.get(part, part) for part in name.split("."))
