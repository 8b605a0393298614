"""The diagonal Gaussian bottleneck of KL autoencoders (Kingma and Welling; Rombach et al., arXiv 2112.10752)."""

from typing import Literal

import torch
from torch import Tensor, nn

from ...common.types import Latents, Quantized, Stream
from .base import MAX_CODE_DIM, StreamQuantized
from .identity import ContinuousBottleneck

LOG_VARIANCE_RANGE = (-30.0, 20.0)


class KL(ContinuousBottleneck):
    """Sampled while training, the mean in eval.

    Loss, raw: `kl` against the unit normal, in nats, summed over a token's channels; mean over images.

    reduction: over the tokens of an image: their mean, or their `sum` (LDM, TiTok's 1e-6).

    latent_dim: channels of the latent; null: as wide as the encoder, or half of it without `project`.
    project: linear layers from the encoder's width to mean and log-variance, and back where widths differ. Off: the
        encoder gives both already, twice the latent's width (`double_z`), and the decoder reads the latent.
    sample_in_eval: eval samples too (TokenBridge's VAE), which reports show as "stochastic".
    """

    loss_names: tuple[str, ...] = ("kl",)
    joined_batch_equal = False  # every process draws its own noise

    def __init__(
        self,
        *,
        dim: int,
        latent_dim: int | None = None,
        project: bool = True,
        sample_in_eval: bool = False,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        if not project and (dim % 2 or latent_dim not in (None, dim // 2)):
            raise ValueError(
                f"latent_dim={latent_dim}: without project the encoder's width, {dim}, holds mean and log-variance, "
                f"so the latent has {dim // 2}" + (" and the width must be even" if dim % 2 else "")
            )
        if latent_dim is None:
            latent_dim = dim if project else dim // 2
        if not 1 <= latent_dim <= MAX_CODE_DIM:
            raise ValueError(f"latent_dim={latent_dim}: from 1 to {MAX_CODE_DIM}")
        super().__init__(dim=dim, code_dim=latent_dim)
        self.project_in = nn.Linear(dim, 2 * latent_dim) if project else nn.Identity()
        if not project:
            self.project_out, self.out_dim = nn.Identity(), latent_dim
        self.stochastic, self.reduction = sample_in_eval, reduction

    def forward(self, latents: Latents) -> Quantized:
        if self.reduction == "sum" and any(stream.mask_BN is not None for stream in latents.values()):
            raise ValueError(
                "tokenizer.quantizer.reduction=sum: this encoder masks tokens, each then a sample; use mean"
            )
        return super().forward(latents)

    def mean(self, x_BND: Tensor) -> Tensor:
        return self.project_in(x_BND).chunk(2, dim=-1)[0]

    def quantize_stream(self, stream: Stream) -> StreamQuantized:
        mean, log_variance = stream.x_BND.chunk(2, dim=-1)
        log_variance = log_variance.clamp(*LOG_VARIANCE_RANGE)
        none = mean.new_empty(*mean.shape[:2], 0)
        sampled = mean
        if self.training or self.stochastic:
            sampled = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        if not self.training:
            return StreamQuantized(sampled, none)
        kl_BN = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=-1)
        kl = kl_BN.mean() if self.reduction == "mean" else kl_BN.sum(dim=1).mean()
        return StreamQuantized(sampled, none, {"kl": kl})
