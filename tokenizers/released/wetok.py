"""WeTok (zhuangshaobin/WeTok): Open-MAGVIT2's network with grouped binary codes, with and without decoder noise."""

from typing import Any, ClassVar

from torch import Tensor

from ...layers.resnet import to_tokens
from ..tokenizer import Tokenizer
from .base import Settings, Tensors
from .grid_cnn import grid_outputs
from .seed_voken import OpenMagvit2


class WeTok(OpenMagvit2):
    systems: ClassVar[tuple[str, ...]] = ("wetok", "wetok_gan")

    def quantizer_node(self, dim: int, constructor: Settings) -> dict[str, Any]:
        return {
            "_target_": "imtok.tokenizers.quantizers.grouped_lfq.GroupedLFQ",
            "bits": dim,
            "groups": constructor.get("num_codebooks", dim // 8),  # every published model has groups of 8 bits
            **self.entropy_settings(constructor),
        }

    def grid_steps(self, tokenizer: Tokenizer, io: Tensors) -> dict[str, Tensor]:
        if "decoder_noise" not in io:
            return grid_outputs(tokenizer, io)
        return grid_outputs(tokenizer, io, noise_BND=to_tokens(io["decoder_noise"]))
