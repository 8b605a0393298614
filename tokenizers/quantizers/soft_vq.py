"""Soft tokens (All in Tokens, arXiv 2301.02229): a predicted distribution over codes is decoded as their mean."""

import torch
from torch import Tensor

from ...common.types import Latents, Shapes, Stream
from .ema_vq import EmaVQ


class SoftVQ(EmaVQ):
    """The EMA codebook of All in Tokens: hard, one code per token, in training and when tokenizing."""

    def decode_soft(self, probabilities_BNK: Tensor, shapes: Shapes) -> Latents:
        """A generator's distribution over the codes, [B, N, codebook_size], to what the decoder reads: sum p e."""
        if probabilities_BNK.shape[-1] != self.codebook_size:
            raise ValueError(
                f"probabilities have {probabilities_BNK.shape[-1]} entries per token, the codebook {self.codebook_size}"
            )
        with torch.autocast(probabilities_BNK.device.type, enabled=False):
            codes = self.project_out(probabilities_BNK.float() @ self.effective_codebook())
        return {"main": Stream(codes, shapes["main"].grid)}
