"""Multi-scale residual quantization (VAR, arXiv 2404.02905; ImageFolder): from coarse grids to the full one."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.types import Grid, IndexSegment, Latents, Quantized, Shapes, Stream
from .base import StreamQuantized
from .shared.codebook import check_codebook_size
from .shared.codebook_start import CodebookStart, codebook_start
from .shared.depth_dropout import StagedQuantizer, kept_mean
from .shared.nearest import nearest_code
from .shared.pyramid import Pyramid, pooled, spread
from .shared.revival import Revival
from .shared.smoothing import Phi
from .shared.straight_through import straight_through


class MultiScaleQuantizer(StagedQuantizer):
    """Scale s codes the residual, area-pooled to its grid; its codes, scaled up, are taken off. The sum is the code.

    scales: sides of the grids; on a full grid of another size than the last, all are scaled.
    phi_convs: smoothing convolutions after upsampling, shared by neighbouring scales; 0 is none (TokenFlow).
    quantizer_dropout, least_stages: share of training samples that end after a random number of scales; they are also
        left out of other loss terms (`Quantized.sample_mask`).
    commit_reduction: `commit` over scales is their `mean` (VAR) or their `sum` (ImageFolder).
    """

    loss_names: tuple[str, ...] = ("codebook", "commit")
    prefix_decodes = False
    learns: bool = False  # whether `learn` does anything

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
        pyramid, stages = Pyramid(scales), len(scales)
        super().__init__(
            dim=dim,
            code_dim=code_dim,
            stages=stages,
            quantizer_dropout=quantizer_dropout,
            least_stages=least_stages,
        )
        self.pyramid, self.commit_reduction = pyramid, commit_reduction
        self.phi = Phi(width=self.code_dim, convs=phi_convs, ratio=phi_ratio, scales=stages)

    # -- what subclasses define --

    @abstractmethod
    def choose(self, residual_ND: Tensor, scale: int) -> Tensor:
        """[N] indices."""

    @abstractmethod
    def codes_at(self, indices: Tensor, scale: int) -> Tensor:
        """[...] indices to [..., code_dim]."""

    def prepare(self, z_BDhw: Tensor) -> Tensor:
        return z_BDhw

    def further_losses(self, left: Sequence[tuple[Tensor, Tensor | None]]) -> dict[str, Tensor]:
        """left: for every scale what those before left over [B, D, h, w], and which samples have this scale."""
        return {}

    def learn(self, vectors_ND: Tensor, indices_N: Tensor) -> None:
        """Once an update, vectors and indices of all scales."""

    # -- the pyramid --

    def forward(self, latents: Latents, *, depths_B: Tensor | None = None) -> Quantized:
        if any(stream.mask_BN is not None for stream in latents.values()):
            raise ValueError(f"tokenizer.quantizer: {type(self).__name__} pools whole grids, so none may be masked")
        return super().forward(latents, depths_B=depths_B)

    def quantize_stream(self, stream: Stream, depths_B: Tensor | None = None) -> StreamQuantized:
        full = self._checked(stream.grid)
        f = self.prepare(stream.x_BND.transpose(1, 2).unflatten(2, full))
        so_far, residual = torch.zeros_like(f), f.detach()
        chosen, seen, losses = [], [], dict.fromkeys(self.loss_names, f.new_zeros(()))
        left: list[tuple[Tensor, Tensor | None]] = []
        for scale, grid in enumerate(self.pyramid.grids(full)):
            keep_B = None if depths_B is None else depths_B > scale
            seen.append(pooled(residual, grid))
            chosen.append(self.choose(seen[-1].flatten(0, 1), scale).view(len(f), -1))
            left.append((f - so_far.detach(), keep_B))
            part = self._on_full_grid(chosen[-1], scale, grid, full)
            residual = residual - part.detach()
            so_far = so_far + (part if keep_B is None else part * keep_B[:, None, None, None])
            if self.training:
                codebook = (so_far - f.detach()).square().mean(dim=(1, 2, 3))
                commit = (so_far.detach() - f).square().mean(dim=(1, 2, 3))
                count = self.stages if self.commit_reduction == "mean" else 1
                losses["commit"] = losses["commit"] + kept_mean(commit, keep_B) / count
                if "codebook" in losses:
                    losses["codebook"] = losses["codebook"] + kept_mean(codebook, keep_B) / self.stages
        if self.training:
            losses |= self.further_losses(left)
        indices_BM = torch.cat(chosen, dim=1)
        if self.learns and self.training and torch.is_grad_enabled():
            self.once_an_update(self.learn, torch.cat(seen, dim=1).flatten(0, 1), indices_BM.flatten())
        indices = indices_BM[..., None]
        if not self.training:
            return StreamQuantized(so_far.flatten(2).transpose(1, 2), indices)
        codes_BND = straight_through(f, so_far).flatten(2).transpose(1, 2)
        whole_B = None if depths_B is None else depths_B == self.stages
        return StreamQuantized(codes_BND, indices, losses, sample_mask=whole_B)

    def _on_full_grid(self, indices_BM: Tensor, scale: int, grid: Grid, full: Grid) -> Tensor:
        return self.phi(spread(self.codes_at(indices_BM, scale), grid, full), scale)

    def _checked(self, grid: Grid | None) -> Grid:
        if grid is None:
            raise ValueError(f"tokenizer.quantizer: {type(self).__name__} pools a grid, but these tokens have none")
        return grid

    def index_layout(self, shapes: Shapes) -> tuple[IndexSegment, ...]:
        return self.pyramid.layout(self._checked(shapes["main"].grid), self.vocabulary)

    def partial_codes(self, indices_BM: Tensor, grid: Grid, *, scales: int | None = None) -> Tensor:
        """[B, N, code_dim] of the first `scales` scales: what a generator has after so many steps."""
        pieces = self.pyramid.split(indices_BM, grid)[:scales]
        parts = [self._on_full_grid(piece, scale, small, grid) for scale, (piece, small) in enumerate(pieces)]
        total = torch.stack(parts).sum(dim=0)
        return total.flatten(2).transpose(1, 2)

    def indices_to_codes(self, indices: dict[str, Tensor], shapes: Shapes) -> Latents:
        grid = self._checked(shapes["main"].grid)
        with torch.autocast(indices["main"].device.type, enabled=False):
            codes = self.project_out(self.partial_codes(indices["main"][..., 0], grid))
        return {"main": Stream(codes, grid)}


class MultiScaleVQ(MultiScaleQuantizer):
    """One codebook for all scales.

    unit_length: search by cosine; the code that is added keeps its learned length (ImageFolder).
    init: where the codes start, see codebook_start.py; null: uniform.
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
        init: CodebookStart | None = None,
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
        self.learns = self.revival.counts
        self.codebook = nn.Parameter(
            codebook_start(init or "uniform", codebook_size=codebook_size, width=self.code_dim)
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
        _, codes = self.revival.revived(self.codebook, vectors_ND, indices_N)
        self.codebook.copy_(codes)
