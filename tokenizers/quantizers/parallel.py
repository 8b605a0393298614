"""One quantizer per stream: independent codebooks for dual encoders (DualToken, DualViTok, ImageFolder's branches)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ...common.build import build
from ...common.errors import did_you_mean
from ...common.modules import ModuleDict
from ...common.types import IndexSegment, Latents, Quantized, Shapes
from .base import Quantizer, main_width


class ParallelQuantizer(Quantizer):
    """`quantizers: {semantic: NODE, pixel: NODE}`; each reads and writes its own stream.

    reduce: losses of one name are their `mean` over streams (ImageFolder) or their `sum` (DualToken).
    """

    builds_own_parts: ClassVar[bool] = True

    def __init__(
        self,
        *,
        dim: int | Mapping[str, int],
        quantizers: Mapping[str, Mapping[str, Any]],
        reduce: Literal["mean", "sum"] = "mean",
        trusted: bool = True,
    ) -> None:
        super().__init__()
        widths = {"main": dim} if isinstance(dim, int) else dict(dim)
        quantizers = {stream: node for stream, node in quantizers.items() if node is not None}
        for stream in quantizers:
            if stream not in widths:
                raise ValueError(f"quantizers.{stream}: no such stream; {did_you_mean(stream, list(widths))}")
        for stream in widths:
            if stream not in quantizers:
                raise ValueError(f"quantizers.{stream}: nothing quantizes this stream; use identity to let it pass")
        self.dim = dim if isinstance(dim, int) else widths
        self.reduce = reduce
        self.quantizers: ModuleDict[Quantizer] = ModuleDict(
            {
                stream: build(
                    quantizers[stream], key=f"tokenizer.quantizer.quantizers.{stream}", trusted=trusted, dim=d
                )
                for stream, d in widths.items()
            }
        )
        out = {stream: main_width(q) for stream, q in self.quantizers.items()}
        self.out_dim = out["main"] if set(out) == {"main"} else out
        self.loss_names = tuple(dict.fromkeys(name for q in self.quantizers.values() for name in q.loss_names))
        self.stochastic = any(q.stochastic for q in self.quantizers.values())
        self.prefix_decodes = all(q.prefix_decodes for q in self.quantizers.values())
        self.joined_batch_equal = all(q.joined_batch_equal for q in self.quantizers.values())

    def set_update(self, update: int) -> None:
        for quantizer in self.quantizers.values():
            quantizer.set_update(update)

    def forward(self, latents: Latents) -> Quantized:
        if set(latents) != set(self.quantizers):
            raise ValueError(
                f"tokenizer.quantizer.quantizers names {sorted(self.quantizers)}, the encoder gives {sorted(latents)}"
            )
        joined, masks = Quantized(codes={}, indices={}), []
        losses: dict[str, list[Tensor]] = {}
        for name, quantizer in self.quantizers.items():
            result = quantizer({"main": latents[name]})
            joined.codes[name] = result.codes["main"]
            if "main" in result.indices:
                joined.indices[name] = result.indices["main"]
            for loss, value in result.losses.items():
                losses.setdefault(loss, []).append(value)
            joined.stats |= {f"{name}_{stat}": value for stat, value in result.stats.items()}
            if result.sample_mask is not None:
                masks.append(result.sample_mask)
        reduced = torch.mean if self.reduce == "mean" else torch.sum
        joined.losses = {name: reduced(torch.stack(values)) for name, values in losses.items()}
        joined.sample_mask = torch.stack(masks).all(dim=0) if masks else None
        return joined

    def index_layout(self, shapes: Shapes) -> tuple[IndexSegment, ...]:
        return tuple(
            IndexSegment(name, s.length, s.vocabulary, s.scale, s.grid)
            for name, quantizer in self.quantizers.items()
            for s in quantizer.index_layout({"main": shapes[name]})
        )

    def indices_to_codes(self, indices: dict[str, Tensor], shapes: Shapes) -> Latents:
        return {
            name: quantizer.indices_to_codes({"main": indices[name]}, {"main": shapes[name]})["main"]
            for name, quantizer in self.quantizers.items()
        }
