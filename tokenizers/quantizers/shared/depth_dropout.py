"""Quantizer dropout: some training samples end after fewer stages (or scales), so that a prefix decodes too."""

import torch
from torch import Tensor


def check_depth_dropout(share: float, least: int, stages: int) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"quantizer_dropout={share}: a share of the samples, from 0 to 1")
    if not 1 <= least <= stages:
        raise ValueError(f"least_stages={least}: from 1 to the number of stages, {stages}")


def draw_depths(samples: int, *, share: float, least: int, stages: int, device: torch.device) -> Tensor | None:
    """[B] stages that each sample keeps; None: all of them. The first int(share * B) samples draw (XQ-GAN)."""
    dropped = int(samples * share)
    if not dropped:
        return None
    depths = torch.full((samples,), stages, device=device)
    depths[:dropped] = torch.randint(least, stages + 1, (dropped,), device=device)
    return depths


def kept_mean(values_B: Tensor, keep_B: Tensor | None) -> Tensor:
    """Mean over the samples that still take part; 0 where none does."""
    if keep_B is None:
        return values_B.mean()
    return (values_B * keep_B).sum() / keep_B.sum().clamp(min=1)
