"""TokenFlow (ByteVisionLab/TokenFlow): a foundation model's tower beside a VQGAN, one index over two codebooks.

The teacher decides the tower: OpenAI's CLIP, timm's ViTamin or transformers' SigLIP; names tell which.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...common.errors import UserError
from ...common.types import Grid, Stream
from ...layers.resnet import to_tokens
from ..quantizers.joint_vq import STREAMS, JointVQ
from ..tokenizer import Tokenizer
from ..towers.base import STATISTICS
from .base import Names, Node, ReleasedFamily, Settings, State, Tensors, of_class, quantized_in_training
from .grid_cnn import LlamaGen, network_sizes, weighted
from .names import clip_name, count_of, renamed, siglip_joined, siglip_name

TOWER = "encoder_vqkd."
HEAD_NAMES = {
    "decoder_vqkd.patch_embed.proj.": "heads.semantic.embed.",
    "decoder_vqkd.fc_norm.": "heads.semantic.norm.",
    "decoder_vqkd.": "heads.semantic.",
    "decode_task_layer.": "heads.semantic.project.",
    "encode_task_layer.": "encoder.semantic.project.",
    "quantize.embedding_vqkd.weight": "quantizer.codebooks.semantic",
    "quantize.embedding_vqgan.weight": "quantizer.codebooks.pixel",
}
PUBLISHED_SCALES = {
    14: [1, 2, 4, 6, 8, 10, 12, 14],
    16: [1, 2, 4, 6, 8, 10, 12, 14, 16],
    27: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 17, 22, 27],
}


class TokenFlow(ReleasedFamily):
    """TokenFlow-B (clip), -L (vitamin) and -XL (siglip)."""

    systems: ClassVar[tuple[str, ...]] = ("tokenflow_clip", "tokenflow_vitamin", "tokenflow_siglip")
    ignored_prefixes: ClassVar[tuple[str, ...]] = ("quantize.codebook_used",)

    def beside(self, state: State) -> set[str]:
        """SigLIP's tapped layer is the last but one; the model keeps what comes behind, frozen and never run."""
        inner = re.compile(re.escape(TOWER) + r"(?:vision_model\.)?(?:(head|post_layernorm)|encoder\.layers\.(\d+))\.")
        found = {name: m for name in state if (m := inner.match(name))}
        last = max((int(m[2]) for m in found.values() if m[2]), default=None)
        return {name for name, m in found.items() if m[1] or int(m[2]) == last}

    def joined(self, state: State) -> dict[str, list[str]]:
        return siglip_joined(state, TOWER)

    def tokenizer_node(self, state: State, *, image_size: Grid, constructor: Settings) -> Node:
        taming = {theirs: state[name] for name, theirs in LlamaGen().taming_names(state).items()}
        side = math.isqrt(state["decoder_vqkd.pos_embed"].shape[1] - 1)
        tower = tower_node(state, image_size=image_size, said=constructor.get("semantic_encoder", {}))
        patch = tower.get("patch_size", 16)
        grid = (image_size[0] // patch, image_size[1] // patch)
        if grid != (side, side):  # as published with `infer_interpolate`: positions are resampled on the way
            tower["image_size"] = [side * patch, side * patch]
        said_scales = constructor.get("scale_rq_layers", [])
        scales = said_scales if min(grid) in said_scales[-1:] else PUBLISHED_SCALES.get(min(grid))
        if scales is None:
            raise UserError(
                f"--image-size={image_size[0]} {image_size[1]}: {grid[0]}x{grid[1]} codes, and no shape shows their "
                f"scales; known are those of {', '.join(str(known * patch) for known in PUBLISHED_SCALES)} pixels; "
                f"these weights were trained at {side * patch} (or --config with scale_rq_layers)"
            )
        hidden, width = state["decoder_vqkd.blocks.0.mlp.fc1.weight"].shape
        said = constructor.get("semantic_decoder", {})
        return {
            "encoder": {
                "_target_": "imtok.tokenizers.encoders.two_towers.TwoTowerEncoder",
                "same_grid": True,
                "semantic": {
                    "_target_": "imtok.tokenizers.encoders.tower.TowerEncoder",
                    "dim": len(state["encode_task_layer.2.weight"]),
                    "project": "tanh",
                    "tower": tower,
                },
                "pixel": {
                    "_target_": "imtok.tokenizers.encoders.cnn.CNNEncoder",
                    "dim": len(state["quant_conv.weight"]),
                    **network_sizes(taming, "encoder.down"),
                },
            },
            "quantizer": {
                "_target_": "imtok.tokenizers.quantizers.joint_vq.JointVQ",
                "codebook_size": len(state["quantize.embedding_vqkd.weight"]),
                "unit_length": constructor.get("codebook_l2_norm", True),
                "scales": list(scales),
                "entropy_temperature": 0.01 if constructor.get("entropy_loss_ratio") else None,
            },
            "decoder": {
                "_target_": "imtok.decoders.one_stream.OneStreamDecoder",
                "image_size": list(image_size),
                "decoder": {"_target_": "imtok.decoders.cnn.CNNDecoder", **network_sizes(taming, "decoder.up")},
            },
            "heads": {
                "semantic": {
                    "_target_": "imtok.decoders.heads.feature_vit.FeatureViTHead",
                    "out_dim": len(state["decode_task_layer.2.weight"]),
                    "grid": side,
                    "width": width,
                    "depth": count_of(state, "decoder_vqkd.blocks"),
                    "num_heads": said.get("num_heads", 12),
                    "mlp_ratio": (hidden + 0.5) / width,
                }
            },
        }

    def rename(self, state: State, constructor: Settings) -> Names:
        cnn = {k: v for k, v in state.items() if re.match(r"(encoder|decoder|quant_conv|post_quant_conv)\.", k)}
        names: dict[str, str] = {}
        for theirs, ours in LlamaGen().names(cnn, constructor).items():
            side, _, rest = ours.partition(".")
            names[theirs] = f"encoder.pixel.{rest}" if side == "encoder" else f"decoder.decoder.{rest}"
        inner = tower_naming(state)
        for theirs in state:
            if theirs.startswith(TOWER):
                if name := inner(theirs.removeprefix(TOWER).removeprefix("vision_model.")):
                    names[theirs] = f"encoder.semantic.tower.{name}"
            elif name := renamed(theirs, HEAD_NAMES):
                names[theirs] = name
        return names

    def convert(self, our_name: str, tensor: Tensor) -> Tensor:
        if our_name == "heads.semantic.embed.weight":
            return tensor.flatten(1)
        if our_name.endswith(("tower.pos_embed", "tower.cls_token")):
            return tensor.view(1, -1, tensor.shape[-1])
        return tensor

    def check_tables(self, state: State, *, constructor: Settings) -> set[str]:
        """Means and deviations that the tower expects."""
        found = {name for name in state if name.startswith("scaling_layer.")}
        for name in found:
            wanted = STATISTICS[statistics_of(state)][name.endswith("scale")]
            if not torch.allclose(state[name].flatten(), torch.tensor(wanted)):
                raise UserError(f"the file's {name} is not what its tower was published with")
        return found

    def steps(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        quantizer, shapes = of_class(tokenizer.quantizer, JointVQ), tokenizer.stream_shapes()
        grid = shapes["semantic"].grid
        z = {"semantic": Stream(io["semantic_z"], grid), "pixel": Stream(to_tokens(io["pixel_z"]), grid)}
        mine, quantized = tokenizer.encoder(io["image"]), quantizer(z)
        again = quantizer.indices_to_codes({"main": io["indices"][..., None]}, shapes)
        parts = io["quantized"].split(list(quantizer.dim.values()), dim=1)
        codes = {stream: Stream(to_tokens(part), grid) for stream, part in zip(STREAMS, parts, strict=True)}
        left_out, quantizer.scale_dropout = quantizer.scale_dropout, 0.0
        losses = quantized_in_training(quantizer, z).losses
        quantizer.scale_dropout = left_out
        return {
            "semantic_z": mine["semantic"].x_BND,
            "pixel_z": mine["pixel"].as_grid(),
            "indices": quantized.indices["main"][..., 0],
            "indices (end to end)": tokenizer.quantize(io["image"]).indices["main"][..., 0],
            "quantized": joined_codes(quantized.codes),
            "quantized (from indices)": joined_codes(again),
            "semantic_decoded": tokenizer.heads["semantic"](codes),
            "decoded": tokenizer.decode(codes),
            **weighted(losses, constructor, beta=1.0),
        }


def joined_codes(codes: Mapping[str, Stream]) -> Tensor:
    return torch.cat([codes[stream].as_grid() for stream in STREAMS], dim=1)


def statistics_of(state: State) -> str:
    """clip for ViTamin, half for SigLIP; the published CLIP variant has no such layer."""
    return "clip" if any(name.startswith(f"{TOWER}patch_embed.backbone.") for name in state) else "half"


def tower_naming(state: State) -> Callable[[str], str | None]:
    """From the published name of a tower's tensor to timm's."""
    if f"{TOWER}class_embedding" in state:
        return clip_name
    if any(name.startswith(f"{TOWER}patch_embed.backbone.") for name in state):
        return lambda name: name  # timm's own names
    return siglip_name


def tower_node(state: State, *, image_size: tuple[int, int], said: Mapping[str, Any]) -> dict[str, Any]:
    inner = {k.removeprefix(TOWER).removeprefix("vision_model."): v for k, v in state.items() if k.startswith(TOWER)}
    node: dict[str, Any] = {"_target_": "imtok.tokenizers.towers.vit.ViTTower", "image_size": list(image_size)}
    if "class_embedding" in inner:
        width, _, patch, _ = inner["conv1.weight"].shape
        return node | {
            "patch_size": patch,
            "width": width,
            "depth": count_of(inner, "transformer.resblocks"),
            "num_heads": said.get("heads", max(1, width // 64)),
            "mlp_width": len(inner["transformer.resblocks.0.mlp.c_fc.weight"]),
            "activation": "quick_gelu",
            "class_token": True,
            "pre_norm": True,
            "patch_bias": False,
            "eps": 1e-5,
            "statistics": "none",
        }
    if "patch_embed.backbone.stem.conv1.weight" in inner:
        width, stages = len(inner["norm.weight"]), "patch_embed.backbone.stages"
        return node | {
            "_target_": "imtok.tokenizers.towers.vitamin.ViTaminTower",
            "width": width,
            "depth": count_of(inner, "blocks"),
            "num_heads": said.get("num_heads", 16),
            "mlp_ratio": len(inner["blocks.0.mlp.w0.weight"]) / width,
            "final_norm": False,
            "conv_widths": [len(inner[f"{stages}.{s}.0.conv3_1x1.weight"]) for s in (0, 1)],
            "conv_depths": [count_of(inner, f"{stages}.{s}") for s in (0, 1)],
        }
    width, _, patch, _ = inner["embeddings.patch_embedding.weight"].shape
    return node | {
        "patch_size": patch,
        "width": width,
        "depth": count_of(inner, "encoder.layers"),
        "num_heads": said.get("num_attention_heads", 16),  # no shape shows them; so400m has 16
        "mlp_width": len(inner["encoder.layers.0.mlp.fc1.weight"]),
        "final_norm": False,
    }
