"""SigLIP's loss: binary cross-entropy over all pairs of an image and a caption.

Zhai et al., arXiv 2303.15343, section 3.2 and algorithm 1.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..teachers.text_tower import TextTower
from .contrastive import ContrastiveTerm


class SigLIP(ContrastiveTerm):
    """scale and bias: at the start, 10 and -10 in the paper, since most pairs do not match; both train."""

    def __init__(
        self,
        *,
        tower: TextTower,
        reads: str = "codes.main",
        projector: Literal["linear", "mlp", "none"] = "linear",
        scale: float = 10.0,
        bias: float = -10.0,
    ) -> None:
        super().__init__(tower=tower, reads=reads, projector=projector)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def loss(self, images_BD: Tensor, texts_BD: Tensor) -> Tensor:
        logits = self.log_scale.exp() * images_BD @ texts_BD.T + self.bias
        sign = 2 * torch.eye(len(logits), device=logits.device) - 1
        return -F.logsigmoid(sign * logits).sum() / len(logits)
