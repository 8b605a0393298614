"""The first stage of TiTok (Yu et al., arXiv 2406.07550, section 3.3): cross-entropy against a frozen VQGAN's codes."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.errors import UserError
from ..common.frozen import Frozen
from ..common.precision import has_matrix_units
from ..common.types import TokenizerOutput
from ..common.weights import Weights
from ..tokenizers.proxy_vqgan import proxy_vqgan
from .base import LossTerm


class ProxyCodes(LossTerm):
    """Mean over batch and patches; the proxy is frozen.

    weights: pretrained (MaskGIT's VQGAN from the hub), FILE or imtok folder of it, or random (seeded).
    precision: the proxy's own: auto is bf16 where the device multiplies it in hardware, else fp32.
    store: keep the codes of every image in memory by its key (1 KiB each at 256 px): the proxy, more than half of an
        update, then runs once per image. Only for crops that never change: data.flip=false and a fixed data.train_crop.
    """

    taps: Mapping[str, str] = MappingProxyType({"proxy_logits": "decoder.to_logits"})

    def __init__(
        self,
        *,
        weights: str = "pretrained",
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        store: bool = False,
    ) -> None:
        super().__init__()
        self.weights, self.precision = weights, precision
        self.stored: StoredCodes | None = StoredCodes() if store else None
        self.net: Frozen | None = None

    def misfit(self, tokenizer: nn.Module) -> str | None:
        """Called once, before training: here the term learns the proxy's sizes."""
        sizes, trains = (getattr(tokenizer.decoder, name, None) for name in ("proxy_sizes", "trains"))
        if sizes is None:
            decoder = type(tokenizer.decoder).__name__
            return f": tokenizer.decoder ({decoder}) predicts no codes; tokenizer/decoder=proxy_codes does"
        if trains != "codes":
            return f": tokenizer.decoder.trains={trains}: codes are learned with trains=codes"
        proxy, origin = proxy_vqgan(weights=self.weights, setting="weights", **sizes)
        self.net = Frozen(ProxyNet(proxy.encoder, proxy.quantizer, precision=self.precision, origin=origin))
        return None

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        assert self.net is not None, "misfit comes first"
        if self.stored is not None and self.training:
            codes_BN = self.stored.codes(batch, self.net)
        else:
            codes_BN = self.net(batch["image"])
        logits_BNK = output.features["proxy_logits"]
        return F.cross_entropy(logits_BNK.flatten(0, 1).float(), codes_BN.flatten())

    def is_available(self, output: TokenizerOutput) -> bool:
        return self.training or "proxy_logits" in output.features


class ProxyNet(nn.Module):
    """Images in [-1, 1] to codes [B, h w]."""

    def __init__(self, encoder: nn.Module, quantizer: nn.Module, *, precision: str, origin: Weights) -> None:
        super().__init__()
        self.encoder, self.quantizer, self.precision, self.origin = encoder, quantizer, precision, origin
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        kind = images.device.type
        bf16 = self.precision == "bf16" or (self.precision == "auto" and has_matrix_units("bf16", kind))
        with torch.inference_mode(), torch.autocast(kind, dtype=torch.bfloat16, enabled=bf16):
            seen = images.contiguous(memory_format=torch.channels_last)
            codes_BN = self.quantizer(self.encoder(seen)).indices["main"][..., 0]
        return codes_BN.clone()  # outside: the backward pass keeps it, and may keep no inference tensor


class StoredCodes:
    """Codes by key; an image that comes back with other pixels is an error, not another answer."""

    def __init__(self) -> None:
        self.known: dict[str, tuple[int, Tensor]] = {}

    def codes(self, batch: Mapping[str, Any], net: nn.Module) -> Tensor:
        images, keys = batch["image"], batch["key"]
        prints = fingerprints(images).tolist()
        fresh = [i for i, key in enumerate(keys) if key not in self.known]
        if fresh:
            made = net(images[fresh]).to("cpu", torch.int32)
            self.known |= {keys[i]: (prints[i], row.clone()) for i, row in zip(fresh, made, strict=True)}
        for key, print_ in zip(keys, prints, strict=True):
            if self.known[key][0] != print_:
                raise UserError(
                    f"ProxyCodes, store=true: {key} came back with other pixels; stored codes need data.flip=false and "
                    "a data.train_crop without chance (imtok.data.transforms.AdmCentreCrop), or store=false"
                )
        return torch.stack([self.known[key][1] for key in keys]).to(images.device, torch.int64)


def fingerprints(images: Tensor) -> Tensor:
    """[B], exact whole numbers that a shift, a flip or another crop changes."""
    bytes_B = ((images.detach() + 1) * 127.5).round().to(torch.int64).flatten(1)
    places = torch.arange(1, bytes_B.shape[1] + 1, device=images.device)
    return (bytes_B * (places * 2654435761 % 2**31)).sum(dim=1)
