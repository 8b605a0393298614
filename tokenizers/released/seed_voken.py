"""Open-MAGVIT2 and IBQ (TencentARC/SEED-Voken): two networks, one training code, one way of storing EMA copies."""

import re
from collections.abc import Collection
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...common.types import Grid, Stream
from ...layers.resnet import to_grid, to_tokens
from ..quantizers import ibq
from ..quantizers.shared.softmax_codes import dot_entropies
from ..tokenizer import Tokenizer
from .base import Names, Node, ReleasedFamily, Settings, State, Tensors, of_class, quantized_in_training
from .grid_cnn import Taming, grid_outputs, level_sizes, quantize_in_training
from .grid_cnn import our_name as name_in_vqgan
from .names import count_of

EMA = "model_ema."
OUR_NORM_NAMES = {"gamma": "scale", "beta": "shift"}


class SeedVoken(ReleasedFamily):
    ignored_prefixes: ClassVar[tuple[str, ...]] = ("loss.", EMA + "loss", EMA + "decay", EMA + "num_updates")

    def ema_copies(self, state: State) -> dict[str, str]:
        """The copies' names lost their dots."""
        live = [name for name in state if not name.startswith((EMA, "loss."))]
        return {name: copy for name in live if (copy := EMA + name.replace(".", "")) in state}


class OpenMagvit2(SeedVoken):
    """Improved convolutions, binary codes, no quantizer parameters."""

    systems: ClassVar[tuple[str, ...]] = ("open_magvit2",)

    def tokenizer_node(self, state: State, *, image_size: Grid, constructor: Settings) -> Node:
        dim = state["encoder.conv_out.weight"].shape[0]
        return {
            "encoder": {
                "_target_": "imtok.tokenizers.encoders.cnn_magvit2.CNNMagvit2Encoder",
                "dim": dim,
                **level_sizes(state, "encoder.down"),
            },
            "quantizer": self.quantizer_node(dim, constructor),
            "decoder": {
                "_target_": "imtok.decoders.cnn_magvit2.CNNMagvit2Decoder",
                **level_sizes(state, "decoder.up"),
                "noise": state["decoder.conv_in.weight"].shape[1] == 2 * dim,
            },
        }

    def quantizer_node(self, dim: int, constructor: Settings) -> dict[str, Any]:
        return {
            "_target_": "imtok.tokenizers.quantizers.lfq.LFQ",
            "bits": dim,
            "temperature": 0.01,
            "log_rule": "offset",  # log(p + 1e-5)
            "sample_weight": constructor.get("sample_minimization_weight", 1.0),
            "batch_weight": constructor.get("batch_maximization_weight", 1.0),
        }

    def rename(self, state: State, constructor: Settings) -> Names:
        return {name: our_name(name, state) for name in state}

    def steps(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        quantized = quantize_in_training(tokenizer, io["z"])
        noise = {"noise_BND": to_tokens(io["decoder_noise"])} if "decoder_noise" in io else {}  # WeTok's second stage
        return {
            **grid_outputs(tokenizer, io, **noise),
            "commitment_loss": quantized.losses["commit"],
            "entropy_aux_loss": quantized.losses["entropy"],
            "per_sample_entropy": quantized.stats["entropy_per_token"],
            "codebook_entropy": quantized.stats["entropy_of_mean"],
        }


class IBQ(SeedVoken, Taming):
    """VQGAN's network with index backpropagation."""

    systems: ClassVar[tuple[str, ...]] = ("ibq",)
    quantizer_target: ClassVar[str] = "imtok.tokenizers.quantizers.ibq.IBQ"

    def quantizer_settings(self, constructor: Settings) -> dict[str, Any]:
        temperature = constructor.get("entropy_temperature", 0.01)
        return {"entropy_temperature": temperature if constructor.get("use_entropy_loss", True) else None}

    def steps(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        out = grid_outputs(tokenizer, io)
        losses = quantize_in_training(tokenizer, io["z"]).losses
        out["quantizer_loss"] = losses["commit"] + constructor.get("beta", 0.25) * losses["codebook"]
        if "entropy" in losses:
            quantizer = of_class(tokenizer.quantizer, ibq.IBQ)
            assert quantizer.entropy_temperature is not None
            codebook = quantizer.effective_codebook().detach()
            z_ND = to_tokens(io["z"]).flatten(0, 1)
            per_token, of_mean = dot_entropies(z_ND, codebook, quantizer.entropy_temperature)
            weights = [constructor.get(f"{k}_weight", 1.0) for k in ("sample_minimization", "batch_maximization")]
            out["sample_entropy"], out["avg_entropy"] = per_token, of_mean
            out["entropy_loss"] = weights[0] * per_token - weights[1] * of_mean
        out["grad_z"], out["grad_codebook"] = _gradients(tokenizer, io["z"], io["grad_probe"])
        return out


@torch.enable_grad()
def _gradients(tokenizer: Tokenizer, z_BDhw: Tensor, probe_BDhw: Tensor) -> tuple[Tensor, Tensor]:
    """Of sum(probe * codes), through the quantizer alone."""
    grid = (z_BDhw.shape[2], z_BDhw.shape[3])
    z_BDhw = z_BDhw.clone().requires_grad_()
    quantizer = of_class(tokenizer.quantizer, ibq.IBQ)
    codes = quantized_in_training(quantizer, {"main": Stream(to_tokens(z_BDhw), grid)}).codes["main"].x_BND
    to_z, to_codebook = torch.autograd.grad((to_grid(codes, grid) * probe_BDhw).sum(), (z_BDhw, quantizer.codebook))
    return to_z, to_codebook


def our_name(theirs: str, all_names: Collection[str]) -> str | None:
    if m := re.match(r"decoder\.adaptive\.(\d+)\.(gamma|beta)\.(.+)", theirs):
        return f"decoder.norms.{count_of(all_names, 'decoder.adaptive') - 1 - int(m[1])}.{OUR_NORM_NAMES[m[2]]}.{m[3]}"
    return name_in_vqgan(theirs, all_names)
