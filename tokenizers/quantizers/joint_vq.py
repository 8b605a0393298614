"""One index, two codebooks (TokenFlow, arXiv 2412.03069): entry k says what is meant and what it looks like."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.types import Grid, IndexSegment, Latents, Quantized, Shapes, Stream
from .base import Quantizer
from .shared.codebook import check_codebook_size
from .shared.nearest import nearest_code
from .shared.softmax_codes import distance_entropies
from .shared.straight_through import straight_through

STREAMS = ("semantic", "pixel")


class JointVQ(Quantizer):
    """Streams `semantic` and `pixel` of one grid; index = argmin over k of |z_s - e_sk|^2 + w |z_p - e_pk|^2 (eq. 3).

    Losses, raw: `codebook` and `commit` over both codes side by side, so that each stream counts by its width; and
    `entropy`, where entropy_temperature is given. Means over scales.

    pixel_weight: w. unit_length: compare unit vectors, one a stream, and hand on unit codes.
    scales: sides of grids of a residual pyramid without smoothing convolutions, as VAR's: residuals are area-pooled,
        their codes scaled up and taken off; the sum is handed on. The last is a side of the full grid; other
        sizes of images have other scales (TokenFlow-B: 8 of them at 224, 9 at 256). null: the full grid alone.
    scale_dropout: chance that a training forward leaves out one scale other than the first.
    """

    reads: ClassVar[tuple[str, ...]] = STREAMS
    loss_names: ClassVar[tuple[str, ...]] = ("codebook", "commit")
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
        entropy_temperature: float | None = None,
    ) -> None:
        super().__init__()
        if isinstance(dim, int) or set(dim) != set(STREAMS):
            raise ValueError(f"dim={dim}: it reads the streams semantic and pixel; use an encoder that gives these two")
        if scales is not None and (not scales or min(scales) < 1 or list(scales) != sorted(scales)):
            raise ValueError(f"scales={list(scales)}: sides of grids, none smaller than the one before, e.g. [1, 2, 4]")
        if pixel_weight <= 0:
            raise ValueError(f"pixel_weight={pixel_weight}: a number above 0")
        if not 0 <= scale_dropout <= 1:
            raise ValueError(f"scale_dropout={scale_dropout}: a chance, from 0 to 1")
        if entropy_temperature is not None and entropy_temperature <= 0:
            raise ValueError(
                f"entropy_temperature={entropy_temperature}: a number above 0, or null for no entropy term"
            )
        self.dim = self.out_dim = {stream: dim[stream] for stream in STREAMS}
        check_codebook_size(codebook_size, sum(self.dim.values()))
        self.codebook_size, self.unit_length, self.scale_dropout = codebook_size, unit_length, scale_dropout
        self.joined_batch_equal = scale_dropout == 0  # every process leaves out a scale of its own
        self.scales = None if scales is None else tuple(scales)
        self.entropy_temperature = entropy_temperature
        if entropy_temperature is not None:
            self.loss_names = (*type(self).loss_names, "entropy")
        self.codebooks = nn.ParameterDict()
        for stream, width in self.dim.items():
            codes = torch.empty(codebook_size, width).uniform_(-1 / codebook_size, 1 / codebook_size)
            self.codebooks[stream] = nn.Parameter(F.normalize(codes, dim=-1) if unit_length else codes)
        importance = torch.ones(sum(self.dim.values()))
        importance[self.dim["semantic"] :] = pixel_weight**0.5
        self.register_buffer("importance", importance, persistent=False)

    def effective_codebook(self) -> Tensor:
        """[K, D], both codes of an entry side by side."""
        return torch.cat([self._comparable(self.codebooks[stream].float()) for stream in STREAMS], dim=-1)

    def _comparable(self, z: Tensor) -> Tensor:
        return F.normalize(z, dim=-1) if self.unit_length else z

    def _both(self, z_ND: Tensor) -> Tensor:
        parts = z_ND.split(list(self.dim.values()), dim=-1)
        return torch.cat([self._comparable(part) for part in parts], dim=-1)

    # -- the pyramid --

    def grids(self, grid: Grid | None) -> list[Grid]:
        if grid is None:
            raise ValueError("tokenizer.quantizer: JointVQ compares two grids, but these tokens have none")
        if self.scales is None:
            return [grid]
        (h, w), last = grid, self.scales[-1]
        if last not in grid:
            raise ValueError(
                f"tokenizer.quantizer.scales={list(self.scales)} are of a {last}x{last} grid, these images give {h}x{w}"
                f"; set scales that end at {min(grid)}, or for published weights imtok import-weights --image-size N"
            )
        return [(max(1, round(h * side / last)), max(1, round(w * side / last))) for side in self.scales]

    def forward(self, latents: Latents) -> Quantized:
        grid = self._grid_of(latents)
        with torch.autocast(latents["pixel"].x_BND.device.type, enabled=False):
            z_BND = torch.cat([latents[stream].x_BND.float() for stream in STREAMS], dim=-1)
            total, indices, losses = self.quantize(z_BND.transpose(1, 2).unflatten(2, grid))
        return Quantized(codes=self._split(total, grid), indices={"main": indices}, losses=losses)

    def quantize(self, z_BDhw: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """(sum of codes, indices [B, M, 1], losses)."""
        grids, codebook = self.grids(tuple(z_BDhw.shape[-2:])), self.effective_codebook()
        left_out = self._left_out(len(grids))
        total, residual = torch.zeros_like(z_BDhw), z_BDhw
        chosen, found = [], []
        for scale, grid in enumerate(grids):
            if scale == left_out:
                chosen.append(torch.full((len(z_BDhw), grid[0] * grid[1]), -1, device=z_BDhw.device))
                continue
            pooled = residual if grid == grids[-1] else F.interpolate(residual, grid, mode="area")
            z_ND = self._both(pooled.permute(0, 2, 3, 1).flatten(0, 2))
            index_N = nearest_code(z_ND.detach() * self.importance, codebook.detach() * self.importance)
            codes_ND = F.embedding(index_N, codebook)
            chosen.append(index_N.view(len(z_BDhw), -1))
            if self.training:
                found.append(self._losses(z_ND, codes_ND, codebook))
                codes_ND = straight_through(z_ND, codes_ND)
            part = self._spread(codes_ND.view(len(z_BDhw), -1, codes_ND.shape[-1]), grid, grids[-1])
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

    def _spread(self, codes_BMD: Tensor, grid: Grid, full: Grid) -> Tensor:
        codes = codes_BMD.transpose(1, 2).unflatten(2, grid)
        return codes if grid == full else F.interpolate(codes, full, mode="bicubic")

    def _split(self, codes_BDhw: Tensor, grid: Grid) -> Latents:
        parts = codes_BDhw.flatten(2).transpose(1, 2).split(list(self.dim.values()), dim=-1)
        return {stream: Stream(part, grid) for stream, part in zip(STREAMS, parts, strict=True)}

    def _grid_of(self, latents: Latents) -> Grid:
        if set(latents) != set(STREAMS):
            raise ValueError(
                f"tokenizer.quantizer: JointVQ reads semantic and pixel, the encoder gives {sorted(latents)}"
            )
        if any(stream.mask_BN is not None for stream in latents.values()):
            raise ValueError("tokenizer.quantizer: JointVQ pools whole grids, so none may be masked")
        return _shared_grid({name: stream.grid for name, stream in latents.items()})

    # -- indices --

    def index_layout(self, shapes: Shapes) -> tuple[IndexSegment, ...]:
        grids = self.grids(_shared_grid({name: shapes[name].grid for name in STREAMS}))
        return tuple(IndexSegment("main", h * w, (self.codebook_size,), s, (h, w)) for s, (h, w) in enumerate(grids))

    def indices_to_codes(self, indices: dict[str, Tensor], shapes: Shapes) -> Latents:
        """-1 adds nothing: the first scales alone are a coarse picture."""
        grids = self.grids(_shared_grid({name: shapes[name].grid for name in STREAMS}))
        with torch.autocast(indices["main"].device.type, enabled=False):
            codebook = self.effective_codebook()
            pieces = indices["main"][..., 0].split([h * w for h, w in grids], dim=1)
            parts = []
            for piece_BM, grid in zip(pieces, grids, strict=True):
                codes = F.embedding(piece_BM.clamp(min=0), codebook) * (piece_BM >= 0)[..., None]
                parts.append(self._spread(codes, grid, grids[-1]))
        return self._split(torch.stack(parts).sum(dim=0), grids[-1])


def _shared_grid(grids: Mapping[str, Grid | None]) -> Grid:
    if grids["semantic"] is None or grids["semantic"] != grids["pixel"]:
        raise ValueError(
            f"tokenizer.quantizer: JointVQ needs both streams on one grid, but semantic is {grids['semantic']} and "
            f"pixel {grids['pixel']}; two_towers has same_grid=true"
        )
    return grids["semantic"]
