"""Residual VQ (Lee et al., arXiv 2203.01941; SoundStream): each stage codes what the stages before left over."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...common.modules import ModuleList
from ...common.types import Latents, Shapes, Stream
from .base import StreamQuantized, only_tokens
from .ema_vq import EmaVQ
from .shared.codebook_start import CodebookStart
from .shared.depth_dropout import StagedQuantizer, kept_mean
from .shared.straight_through import rotate_to, straight_through
from .vq import VQ

MAX_STAGES = 1024


class ResidualVQ(StagedQuantizer):
    """K = stages indices per token; the code is the sum. Losses, raw, are means over stages.

    shared: one codebook for all stages (RQ-VAE, VILA-U, DualToken).
    learn_once: all stages see the shared codebook as it was, and it learns from all of them once, after the last
        (DualToken's semantic stream); false: it has moved before the next stage looks (its pixel stream).
    learn_from: with learn_once, what a chosen code is pulled towards: the `residual` that its stage coded, or the
        `rest` that all stages leave. DualToken's released code does the latter: it keeps the residuals of all stages
        for the update, and then subtracts in place from the one tensor that they are.
    update: how codebooks learn: `gradient` (losses codebook and commit) or `ema` (commit), with EmaVQ's `decay`,
        `revive_below_tokens` and `start_counts`.
    init: where the codes start, see codebook_start.py; null: uniform, or normal with update=ema.
    quantizer_dropout: share of training samples that end after a random number of stages, at least `least_stages`;
        their later indices are -1, and -1 adds nothing in decoding either.
    """

    loss_names: tuple[str, ...] = ("codebook", "commit")

    def __init__(
        self,
        *,
        dim: int,
        stages: int = 4,
        codebook_size: int = 1024,
        code_dim: int | None = None,
        shared: bool = False,
        learn_once: bool = False,
        learn_from: Literal["residual", "rest"] = "residual",
        update: Literal["gradient", "ema"] = "gradient",
        decay: float | None = None,
        revive_below_tokens: float | None = None,
        start_counts: float | None = None,
        init: CodebookStart | None = None,
        revive_below: float = 0.0,
        usage_decay: float = 0.9,
        quantizer_dropout: float = 0.0,
        least_stages: int = 1,
        rotation_trick: bool = False,
    ) -> None:
        if not 1 <= stages <= MAX_STAGES:
            raise ValueError(f"stages={stages}: from 1 to {MAX_STAGES}")
        super().__init__(
            dim=dim,
            code_dim=code_dim,
            stages=stages,
            quantizer_dropout=quantizer_dropout,
            least_stages=least_stages,
        )
        of_ema = {"decay": decay, "revive_below_tokens": revive_below_tokens, "start_counts": start_counts}
        given: dict[str, Any] = {name: value for name, value in of_ema.items() if value is not None}
        if update == "gradient" and given:
            name, value = next(iter(given.items()))
            raise ValueError(f"{name}={value}: of running means, which only update=ema has")
        if learn_once and not shared:
            raise ValueError(f"learn_once={learn_once}: each stage has a codebook of its own; set shared=true too")
        if learn_from == "rest" and not learn_once:
            raise ValueError(f"learn_from={learn_from}: known after the last stage only; set learn_once=true too")
        self.learn_once, self.learn_from = learn_once, learn_from
        self.vocabulary = (codebook_size,) * stages
        self.cross = rotate_to if rotation_trick else straight_through
        kind: Callable[..., VQ | EmaVQ] = partial(VQ if update == "gradient" else EmaVQ, init=init, **given)
        self.books = ModuleList(
            kind(dim=self.code_dim, codebook_size=codebook_size, revive_below=revive_below, usage_decay=usage_decay)
            for _ in range(1 if shared else stages)
        )
        if update == "ema":
            self.loss_names = ("commit",)

    def book(self, stage: int) -> VQ | EmaVQ:
        return self.books[stage % len(self.books)]

    def micro_batch_misfit(self) -> str | None:
        if len(self.books) > 1 or self.learn_once or self.stages == 1 or not self.book(0).learns:
            return None
        return (
            ".learn_once=false: the shared codebook moves between stages, after the whole batch of an update; "
            "learn_once=true, or shared=false"
        )

    def quantize_stream(self, stream: Stream, depths_B: Tensor | None = None) -> StreamQuantized:
        z_BND = stream.x_BND
        total, so_far, indices = torch.zeros_like(z_BND), torch.zeros_like(z_BND), []
        commit, codebook = z_BND.new_zeros(()), z_BND.new_zeros(())
        learns, seen = self.training and torch.is_grad_enabled(), []
        for stage in range(self.stages):
            # Also where a sample has ended: the books learn from what its further stages would have coded.
            book, residual = self.book(stage), z_BND - so_far.detach()
            codes_KD = book.effective_codebook()
            index_BN = book.assign(residual.detach().flatten(0, 1), codes_KD.detach()).view(z_BND.shape[:2])
            codes = F.embedding(index_BN, codes_KD)
            keep_B = None if depths_B is None else depths_B > stage
            if self.training:
                commit = commit + kept_mean((residual - codes.detach()).square().mean(dim=(1, 2)), keep_B)
                codebook = codebook + kept_mean((codes - residual.detach()).square().mean(dim=(1, 2)), keep_B)
            if learns and self.learn_once and book.learns:
                seen.append((residual.detach().flatten(0, 1), index_BN.flatten()))
            elif learns and book.learns:
                book.once_an_update(book.learn, residual.detach().flatten(0, 1), index_BN.flatten())
            so_far = so_far + codes
            if keep_B is None:
                total = so_far
            else:
                index_BN = index_BN.masked_fill(~keep_B[:, None], -1)
                total = total + codes * keep_B[:, None, None]
            indices.append(index_BN)
        if seen and self.learn_from == "rest":
            rest_ND = (z_BND - so_far).detach().flatten(0, 1)
            seen = [(rest_ND, index_N) for _, index_N in seen]
        if seen:  # a token's stages side by side: the order does not depend on how samples lie on processes
            of_all = (torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*seen, strict=True))
            self.book(0).once_an_update(self.book(0).learn, *of_all)
        stacked = torch.stack(indices, dim=-1)
        if not self.training:
            return StreamQuantized(total, stacked)
        losses = {"commit": commit / self.stages, "codebook": codebook / self.stages}
        return StreamQuantized(self.cross(z_BND, total), stacked, {name: losses[name] for name in self.loss_names})

    def lookup(self, indices_BNK: Tensor) -> Tensor:
        codes = indices_BNK.new_zeros((), dtype=torch.float32)
        for stage, index_BN in enumerate(indices_BNK.unbind(dim=-1)):
            chosen = F.embedding(index_BN.clamp(min=0), self.book(stage).effective_codebook())
            codes = codes + chosen * (index_BN >= 0)[..., None]
        return codes

    def indices_to_codes(self, indices: dict[str, Tensor], shapes: Shapes) -> Latents:
        main = indices["main"]  # not clamped: -1 in a later stage means that the sample ended before it
        with torch.autocast(main.device.type, enabled=False):
            codes = self.project_out(self.lookup(main))
        return {"main": only_tokens(codes, main, shapes)}
