"""Product quantization: the latent in equal parts, each with a quantizer of its own (XQ-GAN, arXiv 2412.01762)."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ...common.build import build
from ...common.modules import ModuleList
from ...common.types import IndexSegment, Latents, Quantized, Shapes, Stream, StreamShape
from .base import Quantizer, main_width
from .shared.depth_dropout import StagedQuantizer


class ProductQuantizer(Quantizer):
    """K indices per place, one part after the other; losses are means over parts.

    part: YAML node of the quantizer that every part gets a copy of.
    split: `channels` cuts each vector; `tokens` the sequence (ImageFolder: the encoder gives parts x N tokens), and
        the decoder reads N tokens, the parts' codes side by side.
    """

    builds_own_parts: ClassVar[bool] = True

    def __init__(
        self,
        *,
        dim: int,
        part: Mapping[str, Any],
        parts: int = 2,
        split: Literal["channels", "tokens"] = "channels",
        trusted: bool = True,
    ) -> None:
        super().__init__()
        if parts < 1:
            raise ValueError(f"parts={parts}: at least 1")
        if split == "channels" and dim % parts:
            raise ValueError(f"parts={parts}: {dim} channels do not divide by it; choose a divisor of {dim}")
        self.dim, self.split = dim, split
        width = dim // parts if split == "channels" else dim
        self.parts: ModuleList[Quantizer] = ModuleList(
            build(part, key="tokenizer.quantizer.part", trusted=trusted, dim=width) for _ in range(parts)
        )
        self.out_dim = sum(main_width(p) for p in self.parts)
        self.loss_names = self.parts[0].loss_names
        self.stochastic = any(p.stochastic for p in self.parts)
        self.prefix_decodes = all(p.prefix_decodes for p in self.parts)
        self.joined_batch_equal = all(p.joined_batch_equal for p in self.parts)

    def set_update(self, update: int) -> None:
        for part in self.parts:
            part.set_update(update)

    def forward(self, latents: Latents) -> Quantized:
        if set(latents) != {"main"}:
            raise ValueError(f"tokenizer.quantizer: ProductQuantizer reads one stream, not {sorted(latents)}")
        stream = latents["main"]
        shape = self._part_shape(StreamShape(stream.x_BND.shape[1], stream.grid))
        options: dict[str, Tensor | None] = {}
        if isinstance(self.parts[0], StagedQuantizer):  # one draw for all parts (XQ-GAN)
            options["depths_B"] = self.parts[0].draw_depths(len(stream.x_BND), stream.x_BND.device)
        axis = 2 if self.split == "channels" else 1
        if stream.mask_BN is not None and self.split == "tokens":
            raise ValueError(
                "tokenizer.quantizer.split=tokens: the parts lie one after the other, so none may be masked"
            )
        results = [
            part({"main": Stream(x, shape.grid, stream.mask_BN)}, **options)
            for part, x in zip(self.parts, stream.x_BND.chunk(len(self.parts), dim=axis), strict=True)
        ]
        return Quantized(
            codes=self._join([r.codes for r in results]),
            indices={"main": torch.cat([r.indices["main"] for r in results], dim=-1)},
            losses={name: torch.stack([r.losses[name] for r in results]).mean() for name in results[0].losses},
            sample_mask=results[0].sample_mask,
            stats={k: torch.stack([r.stats[k] for r in results]).mean() for k in results[0].stats},
        )

    def index_layout(self, shapes: Shapes) -> tuple[IndexSegment, ...]:
        shape = {"main": self._part_shape(shapes["main"])}
        layouts = [part.index_layout(shape) for part in self.parts]
        return tuple(
            IndexSegment("main", same[0].length, sum((s.vocabulary for s in same), ()), same[0].scale, same[0].grid)
            for same in zip(*layouts, strict=True)
        )

    def indices_to_codes(self, indices: dict[str, Tensor], shapes: Shapes) -> Latents:
        shape = {"main": self._part_shape(shapes["main"])}
        widths = [len(part.index_layout(shape)[0].vocabulary) for part in self.parts]
        pieces = indices["main"].split(widths, dim=-1)
        return self._join(
            [part.indices_to_codes({"main": i}, shape) for part, i in zip(self.parts, pieces, strict=True)]
        )

    def _part_shape(self, shape: StreamShape) -> StreamShape:
        if self.split == "channels":
            return shape
        tokens, left = divmod(shape.num_tokens, len(self.parts))
        if left:
            raise ValueError(
                f"tokenizer.quantizer.parts={len(self.parts)}: {shape.num_tokens} tokens do not divide by it"
            )
        side = math.isqrt(tokens)
        return StreamShape(tokens, (side, side) if side * side == tokens else None)

    @staticmethod
    def _join(codes: list[Latents]) -> Latents:
        first = codes[0]["main"]
        return {"main": Stream(torch.cat([c["main"].x_BND for c in codes], dim=-1), first.grid, first.mask_BN)}
