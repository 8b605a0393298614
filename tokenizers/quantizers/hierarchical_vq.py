"""Hierarchical codebooks (SemHiTok, arXiv 2503.06764): every semantic code has a small codebook of pixel codes."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.distributed import all_finite, rank, sum_over_processes
from ...common.types import IndexSegment, Latents, Quantized, Shapes, Stream
from .base import StreamQuantized, TokenQuantizer
from .ema_vq import EmaVQ
from .shared.codebook import check_codebook_size
from .shared.revival import Revival
from .shared.straight_through import straight_through

GATHERED_FLOATS = 2**22  # of the sub-codebooks that one chunk of tokens compares with
NO_TOKEN = 2**62


class HierarchicalVQ(TokenQuantizer):
    """One index per token, semantic * sub_size + sub; the code is both codes side by side.

    Reads the streams `semantic` and `pixel` on one grid and gives `main` of their joined width; with a single stream
    `main`, its first half of channels is the semantic part. The semantic codebook follows running means (no codebook
    loss); the sub-codebooks learn by `codebook`. `commit` is over both parts.

    revive_below: share of the even spread below which a semantic code, or a code within all sub-codebooks, is put on a
        vector of the batch; sub-codes only on vectors of their own semantic code.
    """

    loss_names: tuple[str, ...] = ("commit", "codebook")
    joined_batch_equal = True

    def __init__(
        self,
        *,
        dim: int | Mapping[str, int],
        semantic_size: int = 256,
        sub_size: int = 16,
        code_dim: int | None = None,
        unit_length: bool = False,
        decay: float = 0.99,
        revive_below: float = 0.0,
        usage_decay: float = 0.9,
    ) -> None:
        streams = None if isinstance(dim, int) else dict(dim)
        if streams is not None and set(streams) != {"semantic", "pixel"}:
            raise ValueError(f"tokenizer.quantizer: HierarchicalVQ reads semantic and pixel, not {sorted(streams)}")
        if streams is not None and code_dim is not None:
            raise ValueError(f"code_dim={code_dim}: with two streams the codes have the streams' widths; leave it out")
        super().__init__(dim=dim if isinstance(dim, int) else sum(dim.values()), code_dim=code_dim)
        if self.code_dim < 2:
            raise ValueError(f"code_dim={self.code_dim}: at least 2, a semantic and a pixel part")
        check_codebook_size(semantic_size, self.code_dim, name="semantic_size")
        if sub_size < 2:
            raise ValueError(f"sub_size={sub_size}: at least 2 codes")
        self.streams = streams
        self.semantic_dim = self.code_dim // 2 if streams is None else streams["semantic"]
        pixel_dim = self.code_dim - self.semantic_dim
        if streams is not None:
            self.dim = streams
        check_codebook_size(semantic_size * sub_size, pixel_dim, name="sub_size")
        self.sub_size, self.unit_length = sub_size, unit_length
        self.vocabulary = (semantic_size * sub_size,)
        self.semantic = EmaVQ(
            dim=self.semantic_dim,
            codebook_size=semantic_size,
            unit_length=unit_length,
            decay=decay,
            revive_below=revive_below,
            usage_decay=usage_decay,
        )
        self.sub_codebooks = nn.Parameter(torch.randn(semantic_size * sub_size, pixel_dim) * pixel_dim**-0.5)
        self.revival = Revival(codebook_size=semantic_size * sub_size, below=revive_below, decay=usage_decay)

    def forward(self, latents: Latents) -> Quantized:
        if self.streams is None:
            return super().forward(latents)
        if set(latents) != set(self.streams):
            raise ValueError(f"tokenizer.quantizer: HierarchicalVQ reads semantic and pixel, not {sorted(latents)}")
        semantic, pixel = latents["semantic"], latents["pixel"]
        if semantic.grid != pixel.grid:
            raise ValueError(
                f"tokenizer.quantizer: semantic grid {semantic.grid} and pixel grid {pixel.grid} must be one"
            )
        masks = [s.mask_BN for s in (semantic, pixel) if s.mask_BN is not None]
        mask_BN = torch.stack(masks).all(dim=0) if masks else None  # a token needs both of its parts
        return super().forward({"main": Stream(torch.cat([semantic.x_BND, pixel.x_BND], dim=-1), pixel.grid, mask_BN)})

    def index_layout(self, shapes: Shapes) -> tuple[IndexSegment, ...]:
        return super().index_layout(self._one(shapes))

    def indices_to_codes(self, indices: dict[str, Tensor], shapes: Shapes) -> Latents:
        return super().indices_to_codes(indices, self._one(shapes))

    def _one(self, shapes: Shapes) -> Shapes:
        return shapes if self.streams is None else {"main": shapes["pixel"]}

    def _pixel_codes(self) -> Tensor:
        codes = self.sub_codebooks.float()
        if self.training and self.revival.counts:
            codes = codes.clone()  # written over by _revive before the backward pass reads it
        return F.normalize(codes, dim=-1) if self.unit_length else codes

    def quantize(self, z_BND: Tensor) -> StreamQuantized:
        semantic_z, z_pixel = z_BND.split([self.semantic_dim, self.code_dim - self.semantic_dim], dim=-1)
        semantic = self.semantic.quantize(semantic_z)
        z = F.normalize(z_pixel, dim=-1) if self.unit_length else z_pixel
        table = self._pixel_codes()
        joint_BN = self._nearest_sub(z.detach().flatten(0, 1), semantic.indices_BNK.flatten(), table.detach())
        joint_BN = joint_BN.view(z.shape[:2])
        codes = F.embedding(joint_BN, table)
        if not self.training:
            return StreamQuantized(torch.cat([semantic.codes_BND, codes], dim=-1), joint_BN[..., None])
        losses = {
            "commit": semantic.losses["commit"] + F.mse_loss(z, codes.detach()),
            "codebook": F.mse_loss(codes, z.detach()),
        }
        if torch.is_grad_enabled() and self.revival.counts:
            self.once_an_update(self._revive, z_pixel.detach().flatten(0, 1), joint_BN.flatten())
        return StreamQuantized(
            torch.cat([semantic.codes_BND, straight_through(z, codes)], dim=-1), joint_BN[..., None], losses
        )

    @torch.no_grad()
    def _nearest_sub(self, z_ND: Tensor, semantic_N: Tensor, table: Tensor) -> Tensor:
        """The joint index: nearest of the semantic index's sub-codebook."""
        books = table.view(-1, self.sub_size, table.shape[1])
        rows = max(16, GATHERED_FLOATS // (self.sub_size * table.shape[1]))
        found = []
        for z, semantic in zip(z_ND.split(rows), semantic_N.split(rows), strict=True):
            book = books[semantic]  # [R, sub_size, D]
            scores = torch.einsum("rd,rsd->rs", z, book) - book.square().sum(dim=-1) / 2
            found.append(semantic * self.sub_size + scores.argmax(dim=1))
        return torch.cat(found)

    def lookup(self, indices_BNK: Tensor) -> Tensor:
        joint = indices_BNK[..., 0]
        semantic = F.embedding(joint // self.sub_size, self.semantic.codebook)
        return torch.cat([semantic, F.embedding(joint, self._pixel_codes())], dim=-1)

    @torch.no_grad()
    def _revive(self, z_ND: Tensor, joint_N: Tensor) -> None:
        """At most one sub-code of each semantic code an update, put on the first vector that this code holds."""
        finite = all_finite(z_ND)
        self.revival.count(joint_N, finite)
        least_S, which_S = self.revival.usage.view(-1, self.sub_size).min(dim=1)
        # Tokens are numbered over all processes, whose own stay together.
        own, before = len(joint_N), rank() * 2**40
        numbers_N = torch.arange(before, before + own, device=z_ND.device)
        first_S = torch.full_like(which_S, NO_TOKEN).scatter_reduce_(0, joint_N // self.sub_size, numbers_N, "amin")
        sum_over_processes(first_S, "MIN")
        mine_S = (first_S >= before) & (first_S < before + own)
        rows_SD = z_ND[(first_S - before).clamp(0, own - 1)] if own else z_ND.new_zeros(len(first_S), z_ND.shape[1])
        given_SD = sum_over_processes(torch.where(mine_S[:, None], rows_SD, 0))
        opened_S = (least_S < self.revival.below) & (finite > 0) & (first_S < NO_TOKEN)
        at_S = torch.arange(len(which_S), device=z_ND.device) * self.sub_size + which_S
        codes_SD, usage = self.sub_codebooks[at_S], self.revival.usage
        self.sub_codebooks[at_S] = torch.where(opened_S[:, None], given_SD.to(codes_SD.dtype), codes_SD)
        usage[at_S] = torch.where(opened_S, 1.0, usage[at_S])
