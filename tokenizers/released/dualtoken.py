"""DualToken (songweii/DualToken): SigLIP read at two depths, two residual quantizers, RQ-VAE's decoder for pixels."""

import re
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...common.types import Grid, Stream
from ...decoders.heads.tower_tail import TowerTailHead
from ..quantizers.parallel import ParallelQuantizer
from ..tokenizer import Tokenizer
from .base import Names, Node, ReleasedFamily, Settings, State, Tensors, of_class, quantized_in_training
from .grid_cnn import network_sizes, our_name
from .names import check_zero, count_of, projection_names, renamed, siglip_joined, siglip_name

TOWER = "siglip_model.vision_model."
STREAMS = {"sem": "semantic", "pix": "pixel"}
PROJECTIONS = {
    "prequant_pix.": "encoder.to_pixel.",
    "prequant_sem.": "encoder.to_semantic.",
    "prequant_shortcut.": "encoder.to_shortcut.",
    "postquant_pix.": "decoder.decoder.expand.",
    "postquant_sem.": "heads.semantic.expand.",
}
OUR_NAMES = projection_names(PROJECTIONS) | {
    "post_quant_conv.nin_shortcut.": "decoder.decoder.project.skip.",
    "post_quant_conv.": "decoder.decoder.project.",
}
BOOK_NAMES = {"weight": "codebook", "cluster_size_ema": "counts", "embed_ema": "sums"}
POOL_NAMES = {"head.layernorm.": "heads.semantic.pool.norm.", "head.": "heads.semantic.pool."}


class DualToken(ReleasedFamily):
    """Names of transformers 4 (`siglip_model.vision_model`)."""

    systems: ClassVar[tuple[str, ...]] = ("dualtoken",)

    def beside(self, state: State) -> set[str]:
        """SigLIP's text side."""
        return {name for name in state if re.match(r"siglip_model\.(text_model\.|logit_)", name)}

    def joined(self, state: State) -> dict[str, list[str]]:
        return siglip_joined(state, TOWER)

    def tokenizer_node(self, state: State, *, image_size: Grid, constructor: Settings) -> Node:
        width, _, patch, _ = state[f"{TOWER}embeddings.patch_embedding.weight"].shape
        code_dim = len(state["prequant_pix.proj.weight"])
        layers, semantic_layer = count_of(state, f"{TOWER}encoder.layers"), semantic_layer_of(state, constructor)
        said = constructor.get("siglip", {}).get("vision", {})
        sizes = {
            "width": width,
            "num_heads": said.get("num_attention_heads", 16),  # no shape shows them; so400m has 16
            "mlp_width": len(state[f"{TOWER}encoder.layers.0.mlp.fc1.weight"]),
        }
        heads, shortcut = max(1, width // code_dim), "prequant_shortcut.proj.weight" in state
        painter = network_sizes({k: v for k, v in state.items() if k.startswith("decoder.")}, "decoder.up")
        grid = constructor.get("decoder_latent_shape")  # none: the codes' own, whatever size that decodes to
        if not constructor:  # a file without its config: the one with which it decodes images of their own size
            factor = 2 ** (len(painter["channel_multipliers"]) - 1)
            grid = [side // factor for side in image_size]
        return {
            "encoder": {
                "_target_": "imtok.tokenizers.encoders.tapped_tower.TappedTowerEncoder",
                "dim": code_dim,
                "semantic_layer": semantic_layer,
                "pixel_layer": constructor.get("layer_recon", 6),
                "shortcut_layer": constructor.get("layer_shortcut", 4) if shortcut else None,
                "shortcut_weight": constructor.get("weight_shortcut", 0.6),
                "num_heads": heads,
                "tower": {
                    "_target_": "imtok.tokenizers.towers.vit.ViTTower",
                    "image_size": list(image_size),
                    "patch_size": patch,
                    "depth": semantic_layer,
                    "final_norm": False,
                    **sizes,
                },
            },
            "quantizer": {
                "_target_": "imtok.tokenizers.quantizers.parallel.ParallelQuantizer",
                "reduce": "sum",
                "quantizers": {ours: quantizer_node(state, theirs) for theirs, ours in STREAMS.items()},
            },
            "decoder": {
                "_target_": "imtok.decoders.one_stream.OneStreamDecoder",
                "decoder": {
                    "_target_": "imtok.decoders.cnn_rqvae.RQVAEDecoder",
                    "width": width,
                    "grid": None if grid is None else list(grid),
                    "projection_heads": heads,
                    **painter,
                },
            },
            "heads": {
                "semantic": {
                    "_target_": "imtok.decoders.heads.tower_tail.TowerTailHead",
                    "depth": layers - semantic_layer,
                    "projection_heads": heads,
                    **sizes,
                }
            },
        }

    def rename(self, state: State, constructor: Settings) -> Names:
        painter = {name for name in state if name.startswith("decoder.")}
        semantic_layer = semantic_layer_of(state, constructor)
        names = {name: renamed(name, OUR_NAMES) for name in state}
        names |= {name: f"decoder.{ours}" for name in painter if (ours := our_name(name, painter))}
        for name in state:
            if m := re.fullmatch(r"quantizer_(pix|sem)\.codebooks\.(\d+)\.(\w+)", name):
                names[name] = f"quantizer.quantizers.{STREAMS[m[1]]}.books.{m[2]}.{BOOK_NAMES[m[3]]}"
            elif name.startswith(TOWER):
                names[name] = tower_name(name.removeprefix(TOWER), semantic_layer)
        return names

    def convert(self, our_name: str, tensor: Tensor) -> Tensor:
        if our_name.endswith(".codebook"):
            return tensor[:-1]  # the last row stands for no code
        return tensor[None] if our_name == "encoder.tower.pos_embed" else tensor

    def check_tables(self, state: State, *, constructor: Settings) -> set[str]:
        """Keys' missing biases; a codebook shared by all depths stands once for each."""
        found = check_zero(state, ".zero_k_bias")
        for stream in STREAMS:
            if shared(state, stream):
                copies = re.compile(rf"quantizer_{stream}\.codebooks\.[1-9]\d*\.\w+")
                found |= set(filter(copies.fullmatch, state))
        return found

    def not_in_release(self, own: State) -> State:
        return {name: value for name, value in own.items() if name.endswith((".usage", ".started"))}

    def steps(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        grid = (io["pixel_z"].shape[1], io["pixel_z"].shape[2])
        head, latents = of_class(tokenizer.heads["semantic"], TowerTailHead), tokenizer.encoder(io["image"])
        quantizers = of_class(tokenizer.quantizer, ParallelQuantizer).quantizers
        end_to_end = tokenizer.quantize(io["image"]).indices
        out: dict[str, Tensor] = {}
        codes = {}
        for stream in ("pixel", "semantic"):
            z_BND = io[f"{stream}_z"].flatten(1, 2)
            quantizer = quantizers[stream]
            quantized = quantizer({"main": Stream(z_BND, grid)})
            stored = {"main": io[f"{stream}_indices"].flatten(1, 2)}
            codes[stream] = quantizer.indices_to_codes(stored, {"main": tokenizer.stream_shapes()[stream]})["main"]
            losses = quantized_in_training(quantizer, {"main": Stream(z_BND, grid)}).losses
            out |= {
                f"{stream}_z": latents[stream].x_BND.unflatten(1, grid),
                f"{stream}_indices": quantized.indices["main"].unflatten(1, grid),
                f"{stream}_indices (end to end)": end_to_end[stream].unflatten(1, grid),
                f"{stream}_commitment_loss": losses["commit"],
            }
            if stream == "pixel":
                out["pixel_quantized"] = quantized.codes["main"].x_BND
        features = head.features(codes)
        return {
            **out,
            "pixel_quantized (from indices)": codes["pixel"].x_BND,
            "semantic_quantized": features,
            "last_hidden": head.last_hidden(io["semantic_quantized"]),
            "pooled": head(codes),
            "decoded": tokenizer.decode({"pixel": Stream(io["pixel_quantized"], grid)}),
        }


def semantic_layer_of(state: State, constructor: Settings) -> int:
    """The released models quantize before the last layer."""
    return constructor.get("layer_sem", count_of(state, f"{TOWER}encoder.layers") - 1)


def quantizer_node(state: State, stream: str) -> dict[str, Any]:
    stem = f"quantizer_{stream}.codebooks"
    rows, width = state[f"{stem}.0.weight"].shape
    return {
        "_target_": "imtok.tokenizers.quantizers.residual_vq.ResidualVQ",
        "stages": count_of(state, stem),
        "codebook_size": rows - 1,
        "code_dim": width,
        "shared": shared(state, stream),
        "learn_once": stream == "sem" and shared(state, stream),
        "update": "ema",
    }


def shared(state: State, stream: str) -> bool:
    """Whether all depths have one codebook, which the file then holds once a depth."""
    stem = f"quantizer_{stream}.codebooks"
    others = range(1, count_of(state, stem))
    return bool(others) and all(torch.equal(state[f"{stem}.{n}.weight"], state[f"{stem}.0.weight"]) for n in others)


def tower_name(theirs: str, semantic_layer: int) -> str | None:
    """Blocks up to the quantized layer are the encoder's; the rest is a head's."""
    if pooled := renamed(theirs, POOL_NAMES):
        return pooled
    ours = siglip_name(theirs)
    if ours is None:
        return None
    if ours.startswith("norm."):
        return f"heads.semantic.{ours}"
    if not ours.startswith("blocks."):
        return f"encoder.tower.{ours}"
    _, number, rest = ours.split(".", 2)
    behind = int(number) - semantic_layer
    return f"encoder.tower.{ours}" if behind < 0 else f"heads.semantic.blocks.{behind}.{rest}"
