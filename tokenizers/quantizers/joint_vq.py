"""One index, two codebooks (TokenFlow, arXiv 2412.03069): entry k has a semantic and a pixel code."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.types import Grid, IndexSegment, Latents, Quantized, Shapes, Stream
from .base import Quantizer
from .shared.codebook import check_codebook_size
from .shared.codebook_start import CodebookStart, codebook_start
from .shared.limits import check_positive, check_share
from .shared.nearest import nearest_code
from .shared.pyramid import Pyramid, pooled, spread
from .shared.softmax_codes import distance_entropies
from .shared.straight_through import straight_through

STREAMS = ("semantic", "pixel")


class JointVQ(Quantizer):
    """Streams `semantic` and `pixel` of one grid; index = argmin over k of |z_s - e_sk|^2 + w |z_p - e_pk|^2 (eq. 3).

    Losses, raw: `codebook` and `commit` over both codes side by side, so that each stream counts by its width; and
    `entropy`, where entropy_temperature is given. Means over scales.

    pixel_weight: w. unit_length: compare unit vectors, one per stream, and hand on unit codes.
    scales: sides of grids of a residual pyramid without smoothing convolutions, as VAR's: residuals are area-pooled,
        their codes scaled up and taken off; the sum is handed on. The last is a side of the full grid; other
        sizes of images have other scales (TokenFlow-B: 8 of them at 224, 9 at 256). null: the full grid alone.
    scale_dropout: chance that a training forward leaves out one scale other than the first.
    init: where the codes start, see codebook_start.py; null: uniform, of unit length where unit_length is set.
    """

    dim: dict[str, int]
    out_dim: dict[str, int]
    reads: ClassVar[tuple[str, ...]] = STREAMS
    loss_names: tuple[str, ...] = ("codebook", "commit")
    prefix_decodes = False

    def __init__(
        self,
        *,
        dim: Mapping[str, int],
        codebook_size: int = 32768,
        pixel_weight: float = 1.0,
        unit_length: bool = True,
        scales: Sequence[int] | None = None,
        scale_dropout: float = 0.0,
        init: CodebookStart | None = None,
        entropy_temperature: float | None = None,
    ) -> None:
        super().__init__()
        if isinstance(dim, int) or set(dim) != set(STREAMS):
            raise ValueError(f"dim={dim}: it reads the streams semantic and pixel; use an encoder that gives these two")
        self.pyramid = Pyramid(scales)
        check_positive(pixel_weight=pixel_weight, entropy_temperature=entropy_temperature)
        check_share(scale_dropout=scale_dropout)
        self.dim = self.out_dim = {stream: dim[stream] for stream in STREAMS}
        check_codebook_size(codebook_size, sum(self.dim.values()))
        self.codebook_size, self.unit_length, self.scale_dropout = codebook_size, unit_length, scale_dropout
        self.joined_batch_equal = scale_dropout == 0  # every process leaves out a scale of its own
        self.entropy_temperature = entropy_temperature
        if entropy_temperature is not None:
            self.loss_names = (*type(self).loss_names, "entropy")
        self.codebooks = nn.ParameterDict()
        for stream, width in self.dim.items():
            kind = init or ("uniform_unit" if unit_length else "uniform")
            self.codebooks[stream] = nn.Parameter(codebook_start(kind, codebook_size=codebook_size, width=width))
        importance = torch.ones(sum(self.dim.values()))
        importance[self.dim["semantic"] :] = pixel_weight**0.5
        self.importance = nn.Buffer(importance, persistent=False)

    def effective_codebook(self) -> Tensor:
        """[K, D], both codes of an entry side by side."""
        return torch.cat([self._comparable(self.codebooks[stream].float()) for stream in STREAMS], dim=-1)

    def _comparable(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=-1) if self.unit_length else z

    def _both(self, z_ND: Tensor) -> Tensor:
        parts = z_ND.split(list(self.dim.values()), dim=-1)
        return torch.cat([self._comparable(part) for part in parts], dim=-1)

    # -- the pyramid --

    def forward(self, latents: Latents) -> Quantized:
        if set(latents) != set(STREAMS):
            raise ValueError(
                f"tokenizer.quantizer: JointVQ reads semantic and pixel, the encoder gives {sorted(latents)}"
            )
        if any(stream.mask_BN is not None for stream in latents.values()):
            raise ValueError("tokenizer.quantizer: JointVQ pools whole grids, so none may be masked")
        grid = self._full_grid(latents)
        with torch.autocast(latents["pixel"].x_BND.device.type, enabled=False):
            z_BND = torch.cat([latents[stream].x_BND.float() for stream in STREAMS], dim=-1)
            total, indices, losses = self._quantized(z_BND.transpose(1, 2).unflatten(2, grid), grid)
        return Quantized(codes=self._split(total, grid), indices={"main": indices}, losses=losses)

    def _quantized(self, z_BDhw: Tensor, full: Grid) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(sum of codes, indices [B, M, 1], losses)."""
        grids, codebook = self.pyramid.grids(full), self.effective_codebook()
        left_out = self._left_out(len(grids))
        total, residual = torch.zeros_like(z_BDhw), z_BDhw
        chosen, found = [], []
        for scale, grid in enumerate(grids):
            if scale == left_out:
                chosen.append(torch.full((len(z_BDhw), grid[0] * grid[1]), -1, device=z_BDhw.device))
                continue
            z_ND = self._both(pooled(residual, grid).flatten(0, 1))
            index_N = nearest_code(z_ND.detach() * self.importance, codebook.detach() * self.importance)
            codes_ND = F.embedding(index_N, codebook)
            chosen.append(index_N.view(len(z_BDhw), -1))
            if self.training:
                found.append(self._losses(z_ND, codes_ND, codebook))
                codes_ND = straight_through(z_ND, codes_ND)
            part = spread(codes_ND.view(len(z_BDhw), -1, codes_ND.shape[-1]), grid, full)
            total, residual = total + part, residual - part.detach()
        losses = {name: torch.stack([f[name] for f in found]).mean() for name in self.loss_names} if found else {}
        return total, torch.cat(chosen, dim=1)[..., None], losses

    def _losses(self, z_ND: Tensor, codes_ND: Tensor, codebook_KD: Tensor) -> dict[str, Tensor]:
        losses = {"commit": F.mse_loss(z_ND, codes_ND.detach()), "codebook": F.mse_loss(codes_ND, z_ND.detach())}
        if self.entropy_temperature is not None:
            scaled = z_ND * self.importance, codebook_KD * self.importance
            per_token, of_mean = distance_entropies(*scaled, self.entropy_temperature)
            losses["entropy"] = per_token - of_mean
        return losses

    def _left_out(self, scales: int) -> int | None:
        if not self.training or scales < 2 or self.scale_dropout == 0 or float(torch.rand(())) >= self.scale_dropout:
            return None
        return int(torch.randint(1, scales, ()))

    def _split(self, codes_BDhw: Tensor, grid: Grid) -> Latents:
        parts = codes_BDhw.flatten(2).transpose(1, 2).split(list(self.dim.values()), dim=-1)
        return {stream: Stream(part, grid) for stream, part in zip(STREAMS, parts, strict=True)}

    def _full_grid(self, streams: Latents | Shapes) -> Grid:
        grid, other, scales = streams["semantic"].grid, streams["pixel"].grid, self.pyramid.scales
        if grid is None or grid != other:
            raise ValueError(
                f"tokenizer.quantizer: JointVQ needs both streams on one grid, but semantic is {grid} and pixel "
                f"{other}; two_towers has same_grid=true"
            )
        if scales is not None and scales[-1] not in grid:
            raise ValueError(
                f"tokenizer.quantizer.scales={list(scales)} are of a {scales[-1]}x{scales[-1]} grid, these images give "
                f"{grid[0]}x{grid[1]}; set scales that end at {min(grid)}, or for published weights imtok "
                "import-weights --image-size N"
            )
        return grid

    # -- indices --

    def index_layout(self, shapes: Shapes) -> tuple[IndexSegment, ...]:
        return self.pyramid.layout(self._full_grid(shapes), (self.codebook_size,))

    def indices_to_codes(self, indices: dict[str, Tensor], shapes: Shapes) -> Latents:
        """-1 adds nothing: the first scales alone are a coarse image."""
        full = self._full_grid(shapes)
        with torch.autocast(indices["main"].device.type, enabled=False):
            codebook = self.effective_codebook()
            parts = []
            for piece_BM, grid in self.pyramid.split(indices["main"][..., 0], full):
                codes = F.embedding(piece_BM.clamp(min=0), codebook) * (piece_BM >= 0)[..., None]
                parts.append(spread(codes, grid, full))
        return self._split(torch.stack(parts).sum(dim=0), full)
