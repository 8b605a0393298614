"""Where the codes of a codebook start. Adam moves a code by about its learning rate whatever its length, so that one of
length 1 turns thousands of times slower at first than one of length 5e-4: published systems differ in it.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

CodebookStart = Literal["uniform", "uniform_unit", "uniform_width", "normal", "normal_unit", "normal_width"]


def codebook_start(init: CodebookStart, *, codebook_size: int, width: int) -> Tensor:
    """[codebook_size, width]

    uniform: entries within +-1 / codebook_size (VQGAN; TiTok and One-D-Piece, which normalise only when they compare).
    uniform_unit: those brought to unit length (LlamaGen, VAR, ImageFolder). uniform_width: entries within
    +-1 / (36 sqrt(width)) (UniTok). normal: variance 1 (VQ-VAE-2, RQ-VAE, IBQ); normal_unit: to unit length;
    normal_width: variance 1 / width (SimVQ).
    """
    shape = (codebook_size, width)
    if init.startswith("normal"):
        codes = torch.randn(shape) * (width**-0.5 if init == "normal_width" else 1.0)
    else:
        most = 1 / codebook_size if init != "uniform_width" else width**-0.5 / 36
        codes = torch.empty(shape).uniform_(-most, most)
    return F.normalize(codes, dim=-1) if init.endswith("_unit") else codes
