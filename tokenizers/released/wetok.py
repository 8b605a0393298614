"""WeTok (zhuangshaobin/WeTok): Open-MAGVIT2's network with grouped binary codes, with and without decoder noise."""

from typing import Any, ClassVar

from .base import Settings
from .seed_voken import OpenMagvit2


class WeTok(OpenMagvit2):
    systems: ClassVar[tuple[str, ...]] = ("wetok", "wetok_gan")

    def quantizer_node(self, dim: int, constructor: Settings) -> dict[str, Any]:
        return super().quantizer_node(dim, constructor) | {
            "_target_": "imtok.tokenizers.quantizers.grouped_lfq.GroupedLFQ",
            "groups": constructor.get("num_codebooks", dim // 8),  # every published model has groups of 8 bits
        }
