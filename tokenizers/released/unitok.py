"""UniTok (FoundationVision/UniTok) and MedITok (Masaaki-75/meditok): a ViTamin, eight small codebooks, its mirror."""

import re
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...common.errors import UserError
from ...common.types import Grid, Stream
from ..quantizers.multi_codebook import MultiCodebook
from ..tokenizer import Tokenizer
from .base import Names, Node, ReleasedFamily, Settings, State, Tensors, of_class
from .names import check_zero, count_of, projection_names, renamed

PROJECTIONS = {"quant_proj.": "quantizer.project_in.", "post_quant_proj.": "quantizer.project_out."}
OUR_NAMES = projection_names(PROJECTIONS) | {
    "encoder.": "encoder.tower.",
    "decoder.up_conv1.": "decoder.widen.",
    "decoder.up_conv2.": "decoder.stages.0.",
    "decoder.up_conv3.": "decoder.stages.1.",
    "decoder.up_conv4.": "decoder.stem.",
    "decoder.": "decoder.",
    "fc_norm.": "heads.semantic.norm.",
    "projection.": "heads.semantic.project.",
}
TEXT = "text_encoder."


class UniTok(ReleasedFamily):
    """From scratch or CLIP-initialised; MedITok's bare model has the same names."""

    systems: ClassVar[tuple[str, ...]] = ("unitok",)

    def beside(self, state: State) -> set[str]:
        return {name for name in state if name.startswith(TEXT) or name == "logit_scale"}

    def alignment(self, state: State) -> tuple[dict[str, Any], dict[str, str]]:
        """CLIP's text transformer, as open_clip names it, beside the pooled head."""
        text = {name.removeprefix(TEXT): v for name, v in state.items() if name.startswith(TEXT)}
        if not {"text_projection", "positional_embedding", "transformer.resblocks.0.ln_1.weight"} <= set(text):
            return {}, {}
        length, width = text["positional_embedding"].shape
        tower = {
            "_target_": "imtok.losses.teachers.text_tower.TextTower",
            "dim": text["text_projection"].shape[1],
            "width": width,
            "layers": count_of(text, "transformer.resblocks"),
            "heads": max(1, width // 64),  # no shape shows them; the published tower has 12
            "max_tokens": length,
        }
        term = {
            "_target_": "imtok.losses.semantic.contrastive.ClipInfoNCE",
            "reads": "heads.semantic",
            "projector": "none",
            "tower": tower,
        }
        names = {f"{TEXT}{name}": f"clip_infonce.tower.network.{name}" for name in text}
        return {"clip_infonce": term}, names | {"logit_scale": "clip_infonce.log_scale"}

    def tokenizer_node(self, state: State, *, image_size: Grid, constructor: Settings) -> Node:
        trunk = "encoder.patch_embed.backbone."
        code_dim, width = state["quant_proj.proj.weight"].shape
        common = {
            "num_heads": constructor.get("num_heads", max(1, width // 64)),  # no shape shows them; ViTamin's: 64 wide
            "mlp_ratio": len(state["encoder.blocks.0.mlp.w0.weight"]) / width,
            "conv_widths": [len(state[f"{trunk}stages.{s}.0.conv3_1x1.weight"]) for s in (0, 1)],
            "activation": "gelu_tanh",
        }
        return {
            "encoder": {
                "_target_": "imtok.tokenizers.encoders.tower.TowerEncoder",
                "tower": {
                    "_target_": "imtok.tokenizers.towers.vitamin.ViTaminTower",
                    "image_size": list(image_size),
                    "width": width,
                    "depth": count_of(state, "encoder.blocks"),
                    "conv_depths": [count_of(state, f"{trunk}stages.{s}") for s in (0, 1)],
                    "positions": "constant",
                    "statistics": "none",
                    **common,
                },
            },
            "quantizer": {
                "_target_": "imtok.tokenizers.quantizers.multi_codebook.MultiCodebook",
                "codebooks": count_of(state, "quantizer.codebooks"),
                "codebook_size": len(state["quantizer.codebooks.0.codebook.weight"]),
                "code_dim": code_dim,
                "projection": "causal_attention" if self.causal(state, constructor) else "attention",
                "projection_heads": max(1, width // code_dim),
                "entropy_temperature": constructor.get("e_temp", 0.01) if constructor.get("le") else None,
            },
            "decoder": {
                "_target_": "imtok.decoders.vitamin.ViTaminDecoder",
                "depth": count_of(state, "decoder.blocks"),
                "conv_depths": [count_of(state, f"decoder.up_conv{n}") for n in (3, 2)],
                **common,
            },
            "heads": {
                "semantic": {
                    "_target_": "imtok.decoders.heads.pooled.PooledHead",
                    "out_dim": len(state["projection.weight"]),
                }
            },
        }

    def causal(self, state: State, constructor: Settings) -> bool:
        """Whether the projections around the quantizer are; no shape shows it."""
        return constructor.get("causal", False)

    def rename(self, state: State, constructor: Settings) -> Names:
        names = {name: renamed(name, OUR_NAMES) for name in state}
        for name in state:
            if m := re.fullmatch(r"quantizer\.codebooks\.(\d+)\.codebook\.weight", name):
                names[name] = f"quantizer.books.{m[1]}.codebook"
        return names

    def check_tables(self, state: State, *, constructor: Settings) -> set[str]:
        """Keys' missing biases, and the running use of each codebook, which only training looks at."""
        found = check_zero(state, ".zero_k_bias")
        for name in state:
            if m := re.fullmatch(r"(quantizer\.codebooks\.\d+)\.vocab_usage", name):
                if len(state[name]) != len(state[f"{m[1]}.codebook.weight"]):
                    raise UserError(f"the file's {name} counts other codes than its codebook has")
                found.add(name)
        return found

    def steps(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        quantizer = of_class(tokenizer.quantizer, MultiCodebook)
        grid = tokenizer.stream_shapes()["main"].grid
        tokens = tokenizer.encoder(io["image"])["main"].x_BND
        stored = quantizer.quantize(io["z"])
        indices = stored.indices_BNK.transpose(1, 2)
        post_quant = quantizer.project_out(io["quantized"])
        codes = {"main": Stream(post_quant, grid)}
        meaning = F.normalize(tokenizer.heads["semantic"](codes), dim=-1)
        quantizer.train()
        losses = quantizer.quantize(io["z"]).losses
        quantizer.eval()
        loss = constructor.get("vq_beta", 0.25) * losses["commit"] + losses["codebook"]
        return {
            "encoder_out": tokens,
            "z": quantizer.project_in(tokens),
            "indices": indices,
            "indices (end to end)": tokenizer.quantize(io["image"]).indices["main"].transpose(1, 2),
            "quantized": stored.codes_BND,
            "quantized (from indices)": quantizer.lookup(io["indices"].transpose(1, 2)),
            "post_quant": post_quant,
            "decoded": tokenizer.decode(codes),
            "vq_loss": loss,
            "clip_image_features": meaning,
            **({"entropy_loss": mean_entropy(quantizer, io["z"])} if "entropy" in losses else {}),
        }


class MedITok(UniTok):
    """UniTok's model with causal projections."""

    systems: ClassVar[tuple[str, ...]] = ("meditok",)

    def causal(self, state: State, constructor: Settings) -> bool:
        return constructor.get("causal", True)


def mean_entropy(quantizer: MultiCodebook, z_BND: Tensor) -> Tensor:
    """H(code | token) - H(code) with 1e-7 in the logarithm; ours has others' 1e-5. Weight 0 in their runs."""
    values = []
    for book, z in zip(quantizer.books, z_BND.chunk(len(quantizer.books), dim=-1), strict=True):
        codes, unit = book.effective_codebook(), F.normalize(z.flatten(0, 1), dim=-1)
        assert book.entropy_temperature is not None
        logits = -(unit[:, None] - codes).square().sum(dim=-1) / book.entropy_temperature
        p_NK, mean_K = logits.softmax(dim=-1), logits.softmax(dim=-1).mean(dim=0)
        values.append(-(p_NK * logits.log_softmax(dim=-1)).sum(dim=-1).mean() + (mean_K * (mean_K + 1e-7).log()).sum())
    return torch.stack(values).mean()
