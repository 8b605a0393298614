"""Golden vectors of the quantizers of signs and levels (shared/parity/functions), by the quantizers themselves.

Binary entropies are computed in their table form here: published fp32 gradients carry rounding of the published order
of arithmetic above the tolerance of 1e-4 std, which the factorised form that training uses does not have.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..common.types import Stream
from ..tokenizers.quantizers.fsq import FSQ
from ..tokenizers.quantizers.grouped_lfq import GroupedLFQ
from ..tokenizers.quantizers.lfq import LFQ
from .check import Check, Tensors

SEED_VOKEN_WEIGHTS = {"a": (1.0, 1.0), "b": (0.7, 2.0)}  # per sample, batch; stated in the fixture's notes only
SEED_VOKEN_COMMIT = 0.25


def check_seed_voken(config: Mapping[str, Any], io: Tensors, weights: Tensors) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for case in sorted(name.removeprefix("z_") for name in io if name.startswith("z_")):
        sample_weight, batch_weight = SEED_VOKEN_WEIGHTS.get(case, (1.0, 1.0))
        image = io[f"z_{case}"]
        bits = image.shape[1]
        quantizer = LFQ(
            dim=bits,
            bits=bits,
            sample_weight=sample_weight,
            batch_weight=batch_weight,
            log_rule="offset",
            entropy_form="table",
        )
        found = trained_on(quantizer, image, commit_weight=SEED_VOKEN_COMMIT)
        ours |= {f"{name}_{case}": value for name, value in found.items()}
    return ours


def check_lucidrains(config: Mapping[str, Any], io: Tensors, weights: Tensors) -> dict[str, Tensor]:
    facts = config["constructor"]
    groups = facts.get("num_codebooks", 1)
    quantizer = GroupedLFQ(
        dim=facts["dim"],
        bits=groups * round(math.log2(facts["codebook_size"])),
        groups=groups,
        over_groups="mean",
        temperature=1 / config.get("inv_temperature", 100.0),
        batch_weight=facts.get("diversity_gamma", 1.0),
        log_rule="floor",
        entropy_form="table",
        order="msb_first",
    )
    entropy_weight, commit_weight = facts.get("entropy_loss_weight", 0.1), facts.get("commitment_loss_weight", 0.0)
    ours = trained_on(quantizer, io["z"], entropy_weight=entropy_weight, commit_weight=commit_weight)
    indices = ours["indices"].reshape(len(io["z"]), *io["z"].shape[2:], groups)
    return ours | {"indices": indices if groups > 1 else indices[..., 0]}


def check_wetok(config: Mapping[str, Any], io: Tensors, weights: Tensors) -> dict[str, Tensor]:
    bits = config["groups"] * config["bits"]
    quantizer = GroupedLFQ(
        dim=bits,
        bits=bits,
        groups=config["groups"],
        sample_weight=config.get("sample_minimization_weight", 1.0),
        batch_weight=config.get("batch_maximization_weight", 1.0),
        log_rule="offset",
        entropy_form="table",
    )
    return trained_on(quantizer, io["z"])  # the gradient is without the commitment: so stored


def trained_on(
    quantizer: LFQ, image_BDHW: Tensor, *, entropy_weight: float = 1.0, commit_weight: float = 0.0
) -> dict[str, Tensor]:
    """Outputs in training mode, and the gradient of the weighted losses."""
    leaf = image_BDHW.clone().requires_grad_()
    with torch.enable_grad():
        out = quantizer.train()({"main": Stream(leaf.flatten(2).transpose(1, 2))})
        loss = entropy_weight * out.losses["entropy"] + commit_weight * out.losses["commit"]
    return {
        "quantized": out.codes["main"].x_BND.transpose(1, 2).reshape(image_BDHW.shape),
        "indices": out.indices["main"].flatten(),
        "aux_loss": loss,
        "entropy_aux_loss": out.losses["entropy"],
        "per_sample_entropy": out.stats["entropy_per_token"],
        "codebook_entropy": out.stats["entropy_of_mean"],
        "commitment": out.losses["commit"],
        "grad_z": torch.autograd.grad(loss, leaf)[0],
    }


def check_fsq(config: Mapping[str, Any], io: Tensors, weights: Tensors) -> dict[str, Tensor]:
    quantizer = fsq_of(config["levels"])
    ours: dict[str, Tensor] = {}
    if "indices" in io:
        codes = quantizer.lookup(io["indices"][None, :, None])[0]
        # Codes are themselves no fixed points of the squashing, so their own digits are read back.
        ours |= {"codes": codes, "indices_back": quantizer.codes_to_indices(codes[None])[0, :, 0]}
    if "z" in io:
        quantized = quantizer.quantize(io["z"][None])
        ours |= {
            "bounded": quantizer.bounded(io["z"]),
            "quantized": quantized.codes_BND[0],
            "tokens": quantized.indices_BNK[0, :, 0],
        }
    for case in sorted(name.removeprefix("levels") for name in io if name.startswith("levels")):
        quantizer = fsq_of(io[f"levels{case}"].tolist())
        quantized = quantizer.quantize(io[f"z{case}"][None])
        every = torch.arange(quantizer.vocabulary[0])
        ours |= {
            f"quantized{case}": quantized.codes_BND[0],
            f"tokens{case}": quantized.indices_BNK[0, :, 0],
            f"all_codes{case}": quantizer.lookup(every[None, :, None])[0],
        }
    return ours


def fsq_of(levels: list[int]) -> FSQ:
    return FSQ(dim=len(levels), levels=levels).train()


FUNCTIONS: dict[str, Check] = {
    "lfq_entropy_seed_voken": check_seed_voken,
    "lfq_entropy_lucidrains": check_lucidrains,
    "gfq_entropy_wetok": check_wetok,
    "fsq": check_fsq,
}
