"""Golden vectors of quantizers with codebooks or scalar grids (shared/parity/functions): by our own code."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..common.types import Stream
from ..tokenizers.quantizers.gaussian_scalar import GaussianScalar, normal_borders
from ..tokenizers.quantizers.ibq import IBQ
from ..tokenizers.quantizers.shared.softmax_codes import dot_entropies
from .check import Check, Tensors


def check_ibq(config: Mapping[str, Any], io: Tensors, weights: Tensors) -> dict[str, Tensor]:
    """Outputs, losses, and gradients to z and the codebook of sum(out * probe), the quantizer loss and the entropy."""
    facts = config["constructor"]
    quantizer = IBQ(dim=facts["e_dim"], codebook_size=facts["n_e"], entropy_temperature=facts["entropy_temperature"])
    quantizer.train()
    z_BDhw = io["z"].clone().requires_grad_()
    with torch.enable_grad():
        quantizer.codebook.data.copy_(io["codebook"])
        grid = (z_BDhw.shape[2], z_BDhw.shape[3])
        tokens_BND = z_BDhw.flatten(2).transpose(1, 2)
        out = quantizer({"main": Stream(tokens_BND, grid)})
        quantized = out.codes["main"].x_BND.transpose(1, 2).unflatten(2, grid)
        per_token, of_mean = dot_entropies(tokens_BND.flatten(0, 1), quantizer.codebook, facts["entropy_temperature"])
        sample_weight, batch_weight = (facts[f"{k}_weight"] for k in ("sample_minimization", "batch_maximization"))
        scalars = {
            "out": (quantized * io["probe"]).sum(),
            "quant": out.losses["commit"] + facts["beta"] * out.losses["codebook"],
            "entropy": sample_weight * per_token - batch_weight * of_mean,
        }
        ours = {
            "quantized": quantized.detach(),
            "indices": out.indices["main"].flatten(),
            "quant_loss": scalars["quant"].detach(),
            "sample_entropy": per_token.detach(),
            "avg_entropy": of_mean.detach(),
            "entropy_loss": scalars["entropy"].detach(),
        }
        for name, scalar in scalars.items():
            grads = torch.autograd.grad(scalar, (z_BDhw, quantizer.codebook), retain_graph=True)
            ours |= {f"grad_z_{name}": grads[0], f"grad_codebook_{name}": grads[1]}
    return ours


def check_tokenbridge(config: Mapping[str, Any], io: Tensors, weights: Tensors) -> dict[str, Tensor]:
    """Every case x0, x1, ...; the stored inputs are scaled already."""
    ours: dict[str, Tensor] = {}
    case = 0
    while f"x{case}" in io:
        bits, reach = int(io[f"bits{case}"]), float(io[f"range{case}"])
        std_range = float(io[f"std_range{case}"])
        x_BNhw = io[f"x{case}"]
        quantizer = GaussianScalar(dim=x_BNhw.shape[1], bits=bits, range=reach, std_range=std_range).eval()
        out = quantizer({"main": Stream(x_BNhw.flatten(2).transpose(1, 2))})
        ours[f"indices{case}"] = out.indices["main"].transpose(1, 2).reshape(x_BNhw.shape)
        ours[f"dequantized{case}"] = out.codes["main"].x_BND.transpose(1, 2).reshape(x_BNhw.shape)
        ours[f"reconstruction_values{case}"] = quantizer.values
        ours[f"boundaries{case}"] = normal_borders(bits, std_range).float()
        case += 1
    return ours


FUNCTIONS: dict[str, Check] = {"ibq": check_ibq, "tokenbridge_quantize": check_tokenbridge}
