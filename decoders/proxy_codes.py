"""TiTok's two-stage decoder (arXiv 2406.07550, section 3.3): a ViT predicts MaskGIT-VQGAN's codes, a CNN decodes."""

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from ..common.types import Latents, Stream, height_width
from ..common.weights import are_left_out
from ..layers.joint_transformer import init_linear
from ..layers.mask_token_vit import MaskTokenViT
from ..layers.patches import grid_of
from ..tokenizers.proxy_vqgan import proxy_vqgan
from .base import Decoder
from .cnn_maskgit import CNNMaskgitDecoder


class ProxyCodeDecoder(Decoder):
    """Logits over the proxy's codebook at every patch, which the proxy's decoder turns into an image.

    trains: "codes", stage 1: the loss `proxy_codes` reads the logits, `codebook` and `pixels` are the frozen proxy's,
        and images (samples, reports, export) take the likeliest code. "pixels", stage 2: all of it trains on
        images, which take the mean code under the predicted distribution.
    pretrained: where the proxy's half starts: pretrained, random, a file or an imtok folder of MaskGIT's VQGAN; null:
        stage 1's export (init_from) has it.
    codebook_size, code_dim, channels, channel_multipliers, blocks_per_level: the proxy's.
    """

    any_length = True
    last_layer_name = "pixels.conv_out.weight"

    def __init__(
        self,
        *,
        dim: int = 12,
        num_tokens: int = 128,
        image_size: int | Sequence[int] = 256,
        patch_size: int = 16,
        width: int = 512,
        depth: int = 8,
        num_heads: int = 8,
        class_token: bool = True,
        position_std: float | None = None,
        init_std: float | None = 0.02,
        trains: Literal["codes", "pixels"] = "codes",
        codebook_size: int = 1024,
        code_dim: int = 256,
        channels: int = 128,
        channel_multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks_per_level: int = 2,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        factor = 2 ** (len(channel_multipliers) - 1)
        if factor != patch_size:
            raise ValueError(
                f"patch_size={patch_size}: the proxy has a code every {factor} pixels, and every patch predicts one"
            )
        self.dim, self.trains = dim, trains
        self.cheap_sample = trains == "pixels"
        cnn_sizes: dict[str, Any] = {
            "channels": channels,
            "channel_multipliers": tuple(channel_multipliers),
            "blocks_per_level": blocks_per_level,
        }
        self.proxy_sizes = {"codebook_size": codebook_size, "code_dim": code_dim, **cnn_sizes}
        self.vit = MaskTokenViT(
            dim=dim,
            num_tokens=num_tokens,
            grid=grid_of(height_width(image_size), patch_size),
            width=width,
            depth=depth,
            num_heads=num_heads,
            class_token=class_token,
            position_std=position_std,
            init_std=init_std,
        )
        self.to_logits = nn.Sequential(nn.Linear(width, 2 * width), nn.Tanh(), nn.Linear(2 * width, codebook_size))
        init_linear(self.to_logits, init_std)
        self.codebook = nn.Parameter(torch.randn(codebook_size, code_dim))
        self.pixels = CNNMaskgitDecoder(dim=code_dim, **cnn_sizes)
        if pretrained is not None and not are_left_out():
            self._start_from(pretrained)
        if trains == "codes":
            self.codebook.requires_grad_(False)
            self.pixels.requires_grad_(False)

    def logits(self, codes: Latents) -> Tensor:
        """[B, h w, codebook_size]"""
        return self.to_logits(self.vit(codes["main"]))

    def forward(self, codes: Latents) -> Tensor:
        logits_BNK = self.logits(codes)
        if self.trains == "codes":
            proxy_BND = nn.functional.embedding(logits_BNK.argmax(dim=-1), self.codebook)
        else:
            proxy_BND = logits_BNK.float().softmax(dim=-1).to(logits_BNK.dtype) @ self.codebook
        return self.pixels({"main": Stream(proxy_BND, self.vit.grid)})

    def training_losses(self, codes: Latents, images: Tensor, conditions: Tensor | None = None) -> dict[str, Tensor]:
        """Nothing of its own: in stage 1 it runs `to_logits`, where the loss `proxy_codes` has its tap."""
        if self.trains == "codes":
            self.logits(codes)
        return {}

    def _start_from(self, weights: str) -> None:
        proxy, _ = proxy_vqgan(weights=weights, setting="pretrained", **self.proxy_sizes)
        self.pixels.load_state_dict(proxy.decoder.state_dict())
        with torch.no_grad():
            self.codebook.copy_(cast(Tensor, proxy.quantizer.codebook))  # of a VQ: proxy_vqgan builds no other
