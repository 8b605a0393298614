"""Multi-scale residual quantization (VAR, arXiv 2404.02905; ImageFolder): from coarse grids to the full one."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.types import Grid, IndexSegment, Latents, Quantized, Shapes, Stream
from .base import SingleStreamQuantizer, StreamQuantized
from .shared.codebook import check_codebook_size
from .shared.depth_dropout import check_depth_dropout, draw_depths, kept_mean
from .shared.nearest import nearest_code
from .shared.revival import Revival
from .shared.smoothing import Phi


class MultiScaleQuantizer(SingleStreamQuantizer):
    """Scale s codes the residual, area-pooled to its grid; its codes, scaled up, are taken off. The sum is the code.

    scales: sides of the grids; on a grid whose side is not the last of them they are scaled along.
    phi_convs: smoothing convolutions after upsampling, shared by neighbouring scales; 0 is none (TokenFlow).
    quantizer_dropout, least_stages: share of training samples that end after a random number of scales; they are also
        left out of other loss terms (`Quantized.sample_mask`).
    commit_reduction: `commit` over scales is their `mean` (VAR) or their `sum` (ImageFolder).
    """

    loss_names: ClassVar[tuple[str, ...]] = ("codebook", "commit")
    joined_batch_equal: ClassVar[bool] = True
    prefix_decodes = False

    def __init__(
        self,
        *,
        dim: int,
        code_dim: int | None,
        scales: Sequence[int],
        phi_convs: int,
        phi_ratio: float,
        quantizer_dropout: float,
        least_stages: int,
        commit_reduction: Literal["mean", "sum"],
    ) -> None:
        super().__init__(dim=dim, code_dim=code_dim)
        scales = tuple(scales)
        if not scales or min(scales) < 1 or list(scales) != sorted(scales):
            raise ValueError(f"scales={list(scales)}: sides of grids, none smaller than the one before, e.g. [1, 2, 4]")
        if commit_reduction not in ("mean", "sum"):
            raise ValueError(f"commit_reduction={commit_reduction}: known: mean, sum")
        check_depth_dropout(quantizer_dropout, least_stages, len(scales))
        self.scales, self.stages = scales, len(scales)
        self.quantizer_dropout, self.least_stages = quantizer_dropout, least_stages
        self.commit_reduction = commit_reduction
        self._grid: Grid | None = None
        self._depths_B: Tensor | None = None
        self.joined_batch_equal = quantizer_dropout == 0  # every process draws its own depths
        self.phi = Phi(width=self.code_dim, convs=phi_convs, ratio=phi_ratio, scales=self.stages)

    # -- what a kind of codes says --

    @abstractmethod
    def choose(self, residual_ND: Tensor, scale: int) -> Tensor:
        """[N] indices."""

    @abstractmethod
    def codes_at(self, indices: Tensor, scale: int) -> Tensor:
        """[...] indices to [..., code_dim]."""

    def prepare(self, z_BDhw: Tensor) -> Tensor:
        return z_BDhw

    def scale_losses(self, residual_BDhw: Tensor, scale: int, keep_B: Tensor | None) -> dict[str, Tensor]:
        """Further losses of one scale; means over scales are returned."""
        return {}

    def learn(self, vectors_ND: Tensor, indices_N: Tensor) -> None:
        """Once a training forward, vectors and indices of all scales."""

    # -- the pyramid --

    def grids(self, grid: Grid | None) -> list[Grid]:
        if grid is None:
            raise ValueError(f"tokenizer.quantizer: {type(self).__name__} pools a grid, but these tokens have none")
        (h, w), last = grid, self.scales[-1]
        return [(max(1, round(h * side / last)), max(1, round(w * side / last))) for side in self.scales]

    def index_layout(self, shapes: Shapes) -> tuple[IndexSegment, ...]:
        grids = self.grids(shapes["main"].grid)
        return tuple(IndexSegment("main", h * w, self.vocabulary, s, (h, w)) for s, (h, w) in enumerate(grids))

    def draw_depths(self, samples: int, device: torch.device) -> Tensor | None:
        return draw_depths(
            samples, share=self.quantizer_dropout, least=self.least_stages, stages=self.stages, device=device
        )

    def forward(self, latents: Latents, *, depths_B: Tensor | None = None) -> Quantized:
        """depths_B: scales of each sample, where a product of quantizers draws them for all its parts."""
        stream = next(iter(latents.values()))
        if stream.mask_BN is not None:
            raise ValueError(f"tokenizer.quantizer: {type(self).__name__} pools whole grids, so none may be masked")
        if depths_B is None and self.training:
            depths_B = self.draw_depths(len(stream.x_BND), stream.x_BND.device)
        self._grid, self._depths_B = stream.grid, depths_B
        quantized = super().forward(latents)
        if depths_B is not None:
            quantized.sample_mask = depths_B == self.stages
        return quantized

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        grids, depths_B = self.grids(self._grid), self._depths_B
        f = self.prepare(z_BND.transpose(1, 2).unflatten(2, grids[-1]))
        so_far, residual = torch.zeros_like(f), f.detach()
        chosen, pooled, losses = [], [], dict.fromkeys(self.loss_names, f.new_zeros(()))
        for scale, grid in enumerate(grids):
            keep_B = None if depths_B is None else depths_B > scale
            small = residual if grid == grids[-1] else F.interpolate(residual, grid, mode="area")
            pooled.append(small.permute(0, 2, 3, 1).flatten(1, 2))
            chosen.append(self.choose(pooled[-1].flatten(0, 1), scale).view(len(f), -1))
            if self.training:
                for name, value in self.scale_losses(f - so_far.detach(), scale, keep_B).items():
                    losses[name] = losses[name] + value / self.stages
            part = self._spread(chosen[-1], scale, grids)
            residual = residual - part.detach()
            so_far = so_far + (part if keep_B is None else part * keep_B[:, None, None, None])
            if self.training:
                codebook = (so_far - f.detach()).square().mean(dim=(1, 2, 3))
                commit = (so_far.detach() - f).square().mean(dim=(1, 2, 3))
                count = self.stages if self.commit_reduction == "mean" else 1
                losses["commit"] = losses["commit"] + kept_mean(commit, keep_B) / count
                if "codebook" in losses:
                    losses["codebook"] = losses["codebook"] + kept_mean(codebook, keep_B) / self.stages
        indices_BM = torch.cat(chosen, dim=1)
        if self.training and torch.is_grad_enabled():
            self.learn(torch.cat(pooled, dim=1).flatten(0, 1), indices_BM.flatten())
        indices = indices_BM[..., None]
        if not self.training:
            return StreamQuantized(so_far.flatten(2).transpose(1, 2), indices)
        straight_through = f + (so_far - f).detach()
        return StreamQuantized(straight_through.flatten(2).transpose(1, 2), indices, losses)

    def _spread(self, indices_BM: Tensor, scale: int, grids: list[Grid]) -> Tensor:
        """One scale's codes on the full grid."""
        codes = self.codes_at(indices_BM, scale).transpose(1, 2).unflatten(2, grids[scale])
        if grids[scale] != grids[-1]:
            codes = F.interpolate(codes, grids[-1], mode="bicubic")
        return self.phi(codes, scale)

    def partial_codes(self, indices_BM: Tensor, grid: Grid, *, scales: int | None = None) -> Tensor:
        """[B, N, code_dim] of the first `scales` scales: what a generator has after so many steps."""
        grids = self.grids(grid)
        pieces = indices_BM.split([h * w for h, w in grids], dim=1)[:scales]
        total = torch.stack([self._spread(piece, s, grids) for s, piece in enumerate(pieces)]).sum(dim=0)
        return total.flatten(2).transpose(1, 2)

    def lookup(self, indices_BNK: Tensor) -> Tensor:
        raise AssertionError("needs the grid: partial_codes")

    def indices_to_codes(self, indices: dict[str, Tensor], shapes: Shapes) -> Latents:
        shape = shapes["main"]
        assert shape.grid is not None
        with torch.autocast(indices["main"].device.type, enabled=False):
            codes = self.project_out(self.partial_codes(indices["main"][..., 0], shape.grid))
        return {"main": Stream(codes, shape.grid)}


class MultiScaleVQ(MultiScaleQuantizer):
    """One codebook for all scales.

    unit_length: search by cosine; the code that is added keeps its learned length (ImageFolder).
    """

    def __init__(
        self,
        *,
        dim: int,
        codebook_size: int = 4096,
        code_dim: int | None = None,
        scales: Sequence[int] = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16),
        phi_convs: int = 4,
        phi_ratio: float = 0.5,
        unit_length: bool = True,
        revive_below: float = 0.0,
        usage_decay: float = 0.9,
        quantizer_dropout: float = 0.0,
        least_stages: int = 1,
        commit_reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__(
            dim=dim,
            code_dim=code_dim,
            scales=scales,
            phi_convs=phi_convs,
            phi_ratio=phi_ratio,
            quantizer_dropout=quantizer_dropout,
            least_stages=least_stages,
            commit_reduction=commit_reduction,
        )
        check_codebook_size(codebook_size, self.code_dim)
        self.vocabulary = (codebook_size,)
        self.unit_length = unit_length
        self.revival = Revival(codebook_size=codebook_size, below=revive_below, decay=usage_decay)
        self.codebook = nn.Parameter(
            torch.empty(codebook_size, self.code_dim).uniform_(-1 / codebook_size, 1 / codebook_size)
        )

    def choose(self, residual_ND: Tensor, scale: int) -> Tensor:
        codebook = self.codebook.detach().float()
        if self.unit_length:
            return nearest_code(F.normalize(residual_ND, dim=-1), F.normalize(codebook, dim=-1))
        return nearest_code(residual_ND, codebook)

    def codes_at(self, indices: Tensor, scale: int) -> Tensor:
        return F.embedding(indices, self.codebook.float())

    @torch.no_grad()
    def learn(self, vectors_ND: Tensor, indices_N: Tensor) -> None:
        dead, vectors = self.revival.replacements(vectors_ND, indices_N)
        self.codebook[dead] = vectors.to(self.codebook.dtype)
