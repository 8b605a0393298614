"""Frozen perceptual networks of the stored training steps: weights drawn by a rule, so that no file is needed.

A generator with the network's seed draws every tensor in the order of torchvision's state dict, float32: weights of two
or four dimensions have variance gain / fan-in, biases are 0.05 x normal, norms 1 + 0.1 x normal, layer scales
0.5 + 0.2 x normal.
"""

import math

import torch
from torch import Tensor, nn

from ..losses.convnext import ConvNeXtNet
from ..losses.lpips import LPIPSNet

VGG_SEED, CONVNEXT_SEED = 16, 17


def fill_by_rule(network: nn.Module, *, seed: int, gain: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(_drawn(name, torch.randn(parameter.shape, generator=generator), gain))


def _drawn(name: str, draw: Tensor, gain: float) -> Tensor:
    if name.endswith("bias"):
        return 0.05 * draw
    if name.endswith("layer_scale"):
        return 0.5 + 0.2 * draw
    if draw.ndim == 1:
        return 1 + 0.1 * draw
    return draw * math.sqrt(gain / math.prod(draw.shape[1:]))


def fill_perceptual_networks(losses: nn.Module, *, seeds: dict[str, int]) -> None:
    """Every LPIPS and ConvNeXt below `losses`; the heads of LPIPS are the published ones already.

    seeds: `lpips` and `convnext`, where a folder names others.
    """
    from ..common.frozen import modules_within

    for module in modules_within(losses):
        if isinstance(module, LPIPSNet):
            fill_by_rule(module.features, seed=seeds.get("lpips", VGG_SEED), gain=2.0)
        elif isinstance(module, ConvNeXtNet):
            fill_by_rule(module.network, seed=seeds.get("convnext", CONVNEXT_SEED), gain=1.0)
