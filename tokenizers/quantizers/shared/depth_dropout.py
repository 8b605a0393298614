"""Quantizer dropout: some training samples end after fewer stages (or scales), so that a prefix decodes too."""

from abc import abstractmethod
from functools import partial

import torch
from torch import Tensor

from ....common.types import Latents, Quantized, Stream
from ..base import SingleStreamQuantizer, StreamQuantized
from .limits import check_share


class StagedQuantizer(SingleStreamQuantizer):
    """Several stages, one after the other; a training sample may keep only the first of them.

    quantizer_dropout, least_stages: share of training samples that end after a random number of stages, at least so
        many.
    """

    def __init__(
        self, *, dim: int, code_dim: int | None, stages: int, quantizer_dropout: float, least_stages: int
    ) -> None:
        super().__init__(dim=dim, code_dim=code_dim)
        check_share(quantizer_dropout=quantizer_dropout)
        if not 1 <= least_stages <= stages:
            raise ValueError(f"least_stages={least_stages}: from 1 to the number of stages, {stages}")
        self.stages, self.quantizer_dropout, self.least_stages = stages, quantizer_dropout, least_stages
        self.joined_batch_equal = quantizer_dropout == 0  # every process draws its own depths

    def draw_depths(self, samples: int, device: torch.device) -> Tensor | None:
        """[B] stages that each sample keeps; None: all of them. The first int(share * B) samples draw (XQ-GAN)."""
        dropped = int(samples * self.quantizer_dropout)
        if not self.training or not dropped:
            return None
        depths_B = torch.full((samples,), self.stages, device=device)
        depths_B[:dropped] = torch.randint(self.least_stages, self.stages + 1, (dropped,), device=device)
        return depths_B

    def forward(self, latents: Latents, *, depths_B: Tensor | None = None) -> Quantized:
        """depths_B: stages of each sample, where a product of quantizers draws them for all its parts."""
        stream = next(iter(latents.values()))
        if depths_B is None:
            depths_B = self.draw_depths(len(stream.x_BND), stream.x_BND.device)
        if depths_B is not None and stream.mask_BN is not None:  # each token is then quantized as a sample
            depths_B = depths_B[:, None].expand_as(stream.mask_BN)[stream.mask_BN]
        return self.forward_with(partial(self.quantize_stream, depths_B=depths_B), latents)

    @abstractmethod
    def quantize_stream(self, stream: Stream, depths_B: Tensor | None = None) -> StreamQuantized: ...


def kept_mean(values_B: Tensor, keep_B: Tensor | None) -> Tensor:
    """Mean over the samples that still take part; 0 where none does."""
    if keep_B is None:
        return values_B.mean()
    return (values_B * keep_B).sum() / keep_B.sum().clamp(min=1)
