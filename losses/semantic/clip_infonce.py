"""InfoNCE over image-caption pairs, in both directions: CLIP's loss (UniTok, QLIP, VTP).

Radford et al., arXiv 2103.00020, section 2.3 and figure 3.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..teachers.text_tower import TextTower
from .contrastive import ContrastiveTerm


class ClipInfoNCE(ContrastiveTerm):
    """temperature: at the start; its logarithm trains, and the scale stays between 1 and max_scale."""

    def __init__(
        self,
        *,
        tower: TextTower,
        reads: str = "codes.main",
        projector: Literal["linear", "mlp", "none"] = "linear",
        temperature: float = 0.07,
        max_scale: float = 100.0,
    ) -> None:
        super().__init__(tower=tower, reads=reads, projector=projector)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self.max_scale = max_scale

    def loss(self, images_BD: Tensor, texts_BD: Tensor) -> Tensor:
        scale = self.log_scale.clamp(0.0, math.log(self.max_scale)).exp()
        logits = scale * images_BD @ texts_BD.T
        partner = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, partner) + F.cross_entropy(logits.T, partner)) / 2
