"""DualViTok (illume-unified-mllm/ILLUME_plus): Qwen2-VL's tower for meaning, MoVQ for pixels, a SimVQ for each."""

import re
from typing import Any, ClassVar

from torch import Tensor

from ...common.types import Grid, Stream, height_width
from ...layers.resnet import to_grid, to_tokens
from ..encoders.rotary_tower import RotaryTowerEncoder
from ..encoders.two_towers import TwoTowerEncoder
from ..quantizers.parallel import ParallelQuantizer
from ..tokenizer import Tokenizer
from .base import Names, Node, ReleasedFamily, Settings, State, Tensors, of_class, quantized_in_training
from .grid_cnn import network_sizes, our_name
from .names import count_of, renamed

TOWER = "semantic_encoder.model."
OUR_NAMES = {
    TOWER: "encoder.semantic.tower.",
    "semantic_encoder.proj_out.0.": "encoder.semantic.narrow.proj_out.",
    "semantic_encoder.": "encoder.semantic.narrow.",
    "semantic_decoder.proj_out.0.": "heads.semantic.widen.proj_out.",
    "semantic_decoder.proj_out.1.": "heads.semantic.widen.norm_out.",
    "semantic_decoder.": "heads.semantic.widen.",
    "pixel_quant_conv.": "encoder.pixel.project.",
    "pixel_post_quant_conv.": "decoder.project.",
    "semantic_quantizer.frozen_codebook": "quantizer.quantizers.semantic.frozen",
    "semantic_quantizer.code_transform.": "quantizer.quantizers.semantic.transform.",
    "pixel_quantizer.frozen_codebook": "quantizer.quantizers.pixel.frozen",
    "pixel_quantizer.code_transform.": "quantizer.quantizers.pixel.transform.",
}
NORM_NAMES = {"norm_layer.": "norm.", "conv_y.": "scale.", "conv_b.": "shift."}


class DualViTok(ReleasedFamily):
    """The vision tokenizer of ILLUME+, with the frozen tower that its checkpoints carry."""

    systems: ClassVar[tuple[str, ...]] = ("dualvitok",)

    def tokenizer_node(self, state: State, *, image_size: Grid, constructor: Settings) -> Node:
        said, block_heads = constructor.get("vision", {}), constructor.get("block_heads", 16)
        inner, _, frames, patch, _ = state[f"{TOWER}patch_embed.proj.weight"].shape
        out, merged = state[f"{TOWER}merger.mlp.2.weight"].shape
        code_dim, width = state["semantic_encoder.proj_out.0.weight"].shape
        return {
            "encoder": {
                "_target_": "imtok.tokenizers.encoders.two_towers.TwoTowerEncoder",
                "semantic": {
                    "_target_": "imtok.tokenizers.encoders.rotary_tower.RotaryTowerEncoder",
                    "dim": code_dim,
                    "width": width,
                    **block_sizes(state, "semantic_encoder", width, block_heads),
                    "tower": {
                        "_target_": "imtok.tokenizers.towers.qwen2_vl.Qwen2VLTower",
                        "width": out,
                        "inner_width": inner,
                        "depth": count_of(state, f"{TOWER}blocks"),
                        "num_heads": said.get("num_heads", 16),
                        "mlp_ratio": (len(state[f"{TOWER}blocks.0.mlp.fc1.weight"]) + 0.5) / inner,
                        "patch_size": patch,
                        "merge": round((merged / inner) ** 0.5),
                        "frames": frames,
                    },
                },
                "pixel": {
                    "_target_": "imtok.tokenizers.encoders.cnn_movq.CNNMoVQEncoder",
                    "dim": len(state["pixel_quant_conv.weight"]),
                    **network_sizes(cnn(state, "encoder"), "encoder.down"),
                    "shortcuts": shortcuts(state, "encoder", constructor),
                },
            },
            "quantizer": {
                "_target_": "imtok.tokenizers.quantizers.parallel.ParallelQuantizer",
                "reduce": "sum",
                "quantizers": {
                    stream: {
                        "_target_": "imtok.tokenizers.quantizers.sim_vq.SimVQ",
                        "codebook_size": len(state[f"{stream}_quantizer.frozen_codebook"]),
                    }
                    for stream in ("semantic", "pixel")
                },
            },
            "decoder": {
                "_target_": "imtok.decoders.cnn_movq.CNNMoVQDecoder",
                **network_sizes(cnn(state, "decoder"), "decoder.up"),
                "shortcuts": shortcuts(state, "decoder", constructor),
            },
            "heads": {
                "semantic": {
                    "_target_": "imtok.decoders.heads.rotary.RotaryHead",
                    "out_dim": len(state["semantic_decoder.proj_out.0.weight"]),
                    "width": len(state["semantic_decoder.proj_in.weight"]),
                    **block_sizes(state, "semantic_decoder", width, block_heads),
                }
            },
        }

    def rename(self, state: State, constructor: Settings) -> Names:
        names = {name: renamed(name, OUR_NAMES) for name in state}
        for side in ("encoder", "decoder"):
            all_names = set(cnn(state, side))
            for name in all_names:
                if (ours := our_name(name, all_names)) is not None:
                    names[f"pixel_{name}"] = spatial_norm(ours.replace("encoder.", "encoder.pixel.", 1))
        return names

    def convert(self, our_name: str, tensor: Tensor) -> Tensor:
        # A 1x1 convolution there, a linear layer here.
        return tensor.flatten(1) if our_name == "encoder.semantic.narrow.proj_in.weight" else tensor

    def steps(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        shapes, latents = tokenizer.stream_shapes(height_width(io["image"].shape[-2:])), tokenizer.encoder(io["image"])
        quantizers = of_class(tokenizer.quantizer, ParallelQuantizer).quantizers
        semantic = of_class(of_class(tokenizer.encoder, TwoTowerEncoder).semantic, RotaryTowerEncoder)
        indices = tokenizer.quantize(io["image"]).indices
        out: dict[str, Tensor] = {}
        codes = {}
        for stream in ("semantic", "pixel"):
            quantizer, shape, stored = quantizers[stream], shapes[stream], io[f"{stream}_indices"]
            z = {"main": Stream(to_tokens(io[f"{stream}_z"]), shape.grid)}
            quantized = quantizer(z)
            again = quantizer.indices_to_codes({"main": stored.flatten(1)[..., None]}, {"main": shape})["main"]
            codes[stream] = Stream(to_tokens(io[f"{stream}_quantized"]), shape.grid)
            losses = quantized_in_training(quantizer, z).losses
            out |= {
                f"{stream}_z": latents[stream].as_grid(),
                f"{stream}_indices": quantized.indices["main"].view(stored.shape),
                f"{stream}_indices (end to end)": indices[stream].view(stored.shape),
                f"{stream}_quantized": quantized.codes["main"].as_grid(),
                f"{stream}_quantized (from indices)": again.as_grid(),
                f"{stream}_loss": losses["codebook"] + 0.25 * losses["commit"],
            }
        semantic_grid = io["semantic_target"].shape[-2:]
        return {
            **out,
            "semantic_target": to_grid(semantic.tower(io["image"]), semantic_grid),
            "semantic_decoded": to_grid(tokenizer.heads["semantic"](codes), semantic_grid),
            "decoded": tokenizer.decode(codes),
        }


def cnn(state: State, side: str) -> State:
    """The pixel side's networks in VQGAN's names."""
    return {k.removeprefix("pixel_"): v for k, v in state.items() if k.startswith(f"pixel_{side}.")}


def shortcuts(state: State, side: str, constructor: Settings) -> bool:
    """`use_dc_up_down_blocks`: resampling then changes the number of channels."""
    convs = re.compile(rf"pixel_{side}\.(?:down|up)\.\d+\.(?:down|up)sample\.conv\.weight")
    shapes = [tensor.shape for name, tensor in state.items() if convs.fullmatch(name)]
    if not shapes:  # a single level
        return bool(constructor.get(f"pixel_{side}", {}).get("use_dc_up_down_blocks", True))
    return shapes[0][0] != shapes[0][1]


def block_sizes(state: State, part: str, width: int, heads: int) -> dict[str, Any]:
    hidden = len(state[f"{part}.blocks.0.mlp.fc1.weight"])
    return {"depth": count_of(state, f"{part}.blocks"), "num_heads": heads, "mlp_ratio": (hidden + 0.5) / width}


def spatial_norm(name: str) -> str:
    for theirs, ours in NORM_NAMES.items():
        name = name.replace(f".{theirs}", f".{ours}")
    return name
