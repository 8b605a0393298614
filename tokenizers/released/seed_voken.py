"""Open-MAGVIT2 and IBQ (TencentARC/SEED-Voken): two networks, one training code, one way of storing EMA copies."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...common.errors import UserError
from ...common.types import Grid, Stream
from ...layers.resnet import to_grid, to_tokens
from ..quantizers import ibq
from ..quantizers.shared.softmax_codes import dot_entropies
from ..tokenizer import Tokenizer
from .base import Node, ReleasedFamily, Settings, State, Tensors, of_class, quantized_in_training
from .grid_cnn import Taming, grid_outputs, quantize_in_training

EMA = "model_ema."
OUR_BLOCK_NAMES = {"nin_shortcut": "skip"}
OUR_NORM_NAMES = {"gamma": "scale", "beta": "shift"}
TRAINING_ONLY = ("loss.", "model_ema.loss", "model_ema.decay", "model_ema.num_updates")


def dotless_copies(state: Iterable[str]) -> dict[str, str]:
    """{live name: name of its EMA copy}: the copies' names lost their dots."""
    names = set(state)
    candidates = {name: EMA + name.replace(".", "") for name in names if not name.startswith((EMA, "loss."))}
    return {live: copy for live, copy in candidates.items() if copy in names}


class OpenMagvit2(ReleasedFamily):
    """Improved convolutions, binary codes, no quantizer parameters."""

    systems: ClassVar[tuple[str, ...]] = ("open_magvit2",)
    ignored_prefixes: ClassVar[tuple[str, ...]] = TRAINING_ONLY

    def ema_copies(self, state: State) -> dict[str, str]:
        return dotless_copies(state)

    def tokenizer_node(self, state: State, *, image_size: Grid, constructor: Settings) -> Node:
        dim = state["encoder.conv_out.weight"].shape[0]
        return {
            "_target_": "imtok.tokenizers.tokenizer.Tokenizer",
            "image_size": list(image_size),
            "encoder": {
                "_target_": "imtok.tokenizers.encoders.cnn_magvit2.CNNMagvit2Encoder",
                "dim": dim,
                **level_sizes(state, "encoder.down", channels=state["encoder.conv_in.weight"].shape[0]),
            },
            "quantizer": self.quantizer_node(dim, constructor),
            "decoder": {
                "_target_": "imtok.decoders.cnn_magvit2.CNNMagvit2Decoder",
                **level_sizes(state, "decoder.up", channels=None),
                "noise": state["decoder.conv_in.weight"].shape[1] == 2 * dim,
            },
        }

    def quantizer_node(self, dim: int, constructor: Settings) -> dict[str, Any]:
        return {
            "_target_": "imtok.tokenizers.quantizers.lfq.LFQ",
            "bits": dim,
            **self.entropy_settings(constructor),
        }

    def entropy_settings(self, constructor: Settings) -> dict[str, Any]:
        return {
            "temperature": 0.01,
            "log_rule": "offset",  # log(p + 1e-5)
            "sample_weight": constructor.get("sample_minimization_weight", 1.0),
            "batch_weight": constructor.get("batch_maximization_weight", 1.0),
        }

    def grid_steps(self, tokenizer: Tokenizer, io: Tensors) -> dict[str, Tensor]:
        return grid_outputs(tokenizer, io)

    def rename(self, state: State, constructor: Settings) -> Mapping[str, str | None]:
        return {name: our_name(name, state) for name in state}

    def outputs(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        quantized = quantize_in_training(tokenizer, io["z"])
        return {
            **self.grid_steps(tokenizer, io),
            "commitment_loss": quantized.losses["commit"],
            "entropy_aux_loss": quantized.losses["entropy"],
            "per_sample_entropy": quantized.stats["entropy_per_token"],
            "codebook_entropy": quantized.stats["entropy_of_mean"],
        }


class IBQ(Taming):
    """VQGAN's network with index backpropagation."""

    systems: ClassVar[tuple[str, ...]] = ("ibq",)
    ignored_prefixes: ClassVar[tuple[str, ...]] = TRAINING_ONLY
    quantizer_target: ClassVar[str] = "imtok.tokenizers.quantizers.ibq.IBQ"

    def ema_copies(self, state: State) -> dict[str, str]:
        return dotless_copies(state)

    def quantizer_settings(self, constructor: Settings) -> dict[str, Any]:
        temperature = constructor.get("entropy_temperature", 0.01)
        return {"entropy_temperature": temperature if constructor.get("use_entropy_loss", True) else None}

    def outputs(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
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


def _gradients(tokenizer: Tokenizer, z_BDhw: Tensor, probe_BDhw: Tensor) -> tuple[Tensor, Tensor]:
    """Of sum(probe * codes), through the quantizer alone."""
    grid = (z_BDhw.shape[2], z_BDhw.shape[3])
    z_BDhw = z_BDhw.clone().requires_grad_()
    quantizer = of_class(tokenizer.quantizer, ibq.IBQ)
    codes = quantized_in_training(quantizer, {"main": Stream(to_tokens(z_BDhw), grid)}).codes["main"].x_BND
    to_z, to_codebook = torch.autograd.grad((to_grid(codes, grid) * probe_BDhw).sum(), (z_BDhw, quantizer.codebook))
    return to_z, to_codebook


def level_sizes(state: State, levels: str, *, channels: int | None) -> dict[str, Any]:
    """Constructor arguments of our encoder or decoder; no tensor shows the decoder's `ch`, so any divisor does."""
    found = [(int(m[1]), int(m[2])) for m in map(re.compile(rf"{levels}\.(\d+)\.block\.(\d+)\.").match, state) if m]
    if not found:
        raise KeyError(f"{levels}.0.block.0.conv1.weight")
    count = 1 + max(level for level, _ in found)
    widths = [state[f"{levels}.{i}.block.0.conv1.weight"].shape[0] for i in range(count)]
    channels = channels or math.gcd(*widths)
    if any(width % channels for width in widths):
        raise UserError(f"{levels}: widths {widths} are no multiples of the first convolution's {channels}")
    return {
        "channels": channels,
        "channel_multipliers": [width // channels for width in widths],
        "blocks_per_level": 1 + max(block for _, block in found),
    }


def our_name(theirs: str, all_names: Iterable[str]) -> str | None:
    if m := re.match(r"(encoder|decoder)\.mid_block\.(\d+)\.(.+)", theirs):
        return f"{m[1]}.middle.{m[2]}.{block_name(m[3])}"
    if m := re.match(r"(encoder\.down|decoder\.up)\.(\d+)\.(block\.|downsample\.|upsample\.conv1\.)(.+)", theirs):
        levels, level, kind, rest = m[1], int(m[2]), m[3], m[4]
        side = levels.split(".")[0]
        stem = f"{side}.levels.{level if side == 'encoder' else last_number(all_names, levels) - level}"
        if kind == "block.":
            number, _, inner = rest.partition(".")
            return f"{stem}.{number}.{block_name(inner)}"
        after = last_number(all_names, f"{levels}.{level}.block") + 1
        return f"{stem}.{after}.{rest}" if side == "encoder" else f"{stem}.{after}.conv.{rest}"
    if m := re.match(r"decoder\.adaptive\.(\d+)\.(gamma|beta)\.(.+)", theirs):
        return f"decoder.norms.{last_number(all_names, 'decoder.adaptive') - int(m[1])}.{OUR_NORM_NAMES[m[2]]}.{m[3]}"
    return theirs if re.match(r"(encoder|decoder)\.(conv_in|norm_out|conv_out)\.", theirs) else None


def last_number(all_names: Iterable[str], stem: str) -> int:
    return max(int(name[len(stem) + 1 :].split(".")[0]) for name in all_names if name.startswith(stem + "."))


def block_name(name: str) -> str:
    head, _, tail = name.partition(".")
    return f"{OUR_BLOCK_NAMES.get(head, head)}.{tail}"
