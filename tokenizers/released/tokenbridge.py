"""The KL autoencoder of MAR and TokenBridge (kl16.ckpt): VQGAN's network around a Gaussian, not a codebook."""

from typing import Any, ClassVar

import torch

from ...common.types import Stream
from ...layers.resnet import to_grid, to_tokens
from ..tokenizer import Tokenizer
from .base import Settings, State, Tensors
from .grid_cnn import Taming

LATENT_SCALE = 0.2325  # TokenBridge and MAR multiply latents by it


class KL16(Taming):
    """The continuous tokenizer, as `imtok quantize` takes it: eval gives the mean."""

    systems: ClassVar[tuple[str, ...]] = ("tokenbridge_vae",)

    def quantizer_node(self, taming: State, constructor: Settings) -> dict[str, Any]:
        return {"_target_": "imtok.tokenizers.quantizers.kl.KL", "project": False}

    def steps(self, tokenizer: Tokenizer, io: Tensors, constructor: Settings) -> State:
        latents = tokenizer.encoder(io["image"])
        grid = latents["main"].grid
        out = {
            "moments": to_grid(latents["main"].x_BND, grid),
            "mean": to_grid(tokenizer.quantizer(latents).codes["main"].x_BND, grid),
        }
        if "z" in io:
            out["decoded"] = tokenizer.decode({"main": Stream(to_tokens(io["z"]), grid)})
        return out


class TokenBridge(KL16):
    """The same with the published post-training quantizer: 64 values per channel."""

    systems: ClassVar[tuple[str, ...]] = ("tokenbridge",)

    def quantizer_node(self, taming: State, constructor: Settings) -> dict[str, Any]:
        return {
            "_target_": "imtok.tokenizers.quantizers.gaussian_scalar.GaussianScalar",
            "bits": constructor.get("bits", 6),
            "range": constructor.get("range", 5.0),
            "continuous": super().quantizer_node(taming, constructor),
        }

    def not_in_release(self, own: State) -> State:
        spread = torch.full_like(own["quantizer.spread"], 1 / LATENT_SCALE)
        return {"quantizer.mean": own["quantizer.mean"], "quantizer.spread": spread}
