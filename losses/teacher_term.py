"""Loss terms that compare the tokenizer with a frozen teacher."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.frozen import Frozen
from ..common.types import Stream, TokenizerOutput
from .base import LossTerm, mean_over_samples
from .source import Reading, as_stream
from .teachers.base import SemanticTeacher, TeacherFeatures

COMPARE = {"tokens": ("tokens",), "pooled": ("pooled",), "both": ("tokens", "pooled")}


class TeacherTerm(LossTerm):
    """teacher: a name of cfg.teacher; `self.network` is that teacher from `learn_from` on."""

    network: Frozen

    def __init__(self, *, teacher: str) -> None:
        super().__init__()
        self.teacher = teacher

    def learn_from(self, teacher: SemanticTeacher) -> None:
        """Called once, before `misfit`."""
        self.network = Frozen(teacher)


class FeatureTerm(TeacherTerm):
    """teacher: a name of cfg.teacher. reads: heads.NAME, codes.STREAM, latents.STREAM, features.MODULE_PATH, or
    `reconstruction`: then the teacher sees that too, and gradients pass through it.

    compare: tokens, pooled (the mean of ours with the teacher's pooled vector), or both, summed.
    projector: linear or mlp from our width to the teacher's, trained with the generator and never exported; none.
    The teacher's tokens are resampled to our grid where the two differ.
    """

    saved_with_export = True
    needs_same_width = True

    def __init__(
        self,
        *,
        teacher: str,
        reads: str = "heads.semantic",
        compare: Literal["tokens", "pooled", "both"] = "tokens",
        projector: Literal["none", "linear", "mlp"] = "none",
    ) -> None:
        super().__init__(teacher=teacher)
        self.reading = None if reads == "reconstruction" else Reading.parse(reads)
        self.needs_reconstruction = self.reading is None
        self.taps = self.reading.taps if self.reading else {}
        self.compare, self.projector_kind = COMPARE[compare], projector
        self.projectors = nn.ModuleDict()

    @property
    def compared_with(self) -> str:
        return str(self.teacher)

    def misfit(self, tokenizer: nn.Module) -> str | None:
        """Called once, before training: here the projector learns its widths."""
        if self.reading is None:
            return super().misfit(tokenizer)
        if reason := self.reading.misfit(tokenizer):
            return reason
        width = self.reading.width(tokenizer)
        for what in self.compare:
            wanted = self.network.tokens_dim if what == "tokens" else self.network.pooled_dim
            if self.projector_kind != "none" and width is None:
                return f".term.projector={self.projector_kind}: the width of features is not known; use a head"
            if self.projector_kind != "none" and width is not None:
                self.projectors[what] = projection(width, wanted, kind=self.projector_kind)
            elif self.needs_same_width and width not in (None, wanted):
                return (
                    f".term.reads={self.reading.kind}.{self.reading.name}: {width} channels, the teacher's {what} have "
                    f"{wanted}; set loss.NAME.term.projector=linear, or read a head of that width"
                )
        return super().misfit(tokenizer)

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        per_sample = torch.stack([self.distance(*pair) for pair in self.pairs(batch["image"], output)]).sum(dim=0)
        return mean_over_samples(per_sample, output.quantized.sample_mask)

    @abstractmethod
    def distance(self, ours_BND: Tensor, theirs_BND: Tensor, mask_BN: Tensor | None) -> Tensor:
        """[B], fp32."""

    def pairs(self, images: Tensor, output: TokenizerOutput) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """(ours, the teacher's, mask) for each of `compare`, in fp32."""
        theirs: TeacherFeatures = self.network(images)
        if self.reading is None:
            made = self.network.features(self.network.prepared(output.reconstruction))
            sides = {"tokens": Stream(made.tokens_BND, made.grid), "pooled": as_stream(made.pooled_BD)}
        else:
            stream = self.reading.of(output)
            sides = {"tokens": stream, "pooled": Stream(stream.mean()[:, None], (1, 1))}
        found = []
        for what in self.compare:
            ours, target = sides[what], theirs.pooled_BD[:, None]
            if what == "tokens":
                target = resampled(theirs, ours)
            x = self.projectors[what](ours.x_BND) if what in self.projectors else ours.x_BND
            found.append((x.float(), target.float(), ours.mask_BN if what == "tokens" else None))
        return found

    @torch.no_grad()
    def cosine_to_teacher(self, images: Tensor, output: TokenizerOutput) -> Tensor:
        """[B], for evaluation: mean over tokens (and pooled vectors, where compared)."""
        cosines = [
            mean_over_tokens(F.cosine_similarity(a, b, dim=-1), mask) for a, b, mask in self.pairs(images, output)
        ]
        return torch.stack(cosines).mean(dim=0)


def projection(width: int, to: int, *, kind: str) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, to)
    return nn.Sequential(nn.Linear(width, to), nn.GELU(), nn.Linear(to, to))


def resampled(theirs: TeacherFeatures, ours: Stream) -> Tensor:
    """The teacher's tokens on our grid."""
    if ours.grid == theirs.grid or (ours.grid is None and ours.x_BND.shape[1] == theirs.tokens_BND.shape[1]):
        return theirs.tokens_BND
    if ours.grid is None:
        raise ValueError(
            f"loss: {ours.x_BND.shape[1]} tokens without a grid cannot be laid over a teacher's {list(theirs.grid)}; "
            "set its compare to pooled"
        )
    theirs_BCHW = theirs.tokens_BND.transpose(1, 2).unflatten(2, theirs.grid)
    laid = F.interpolate(theirs_BCHW.float(), size=ours.grid, mode="bilinear", antialias=True)
    return laid.flatten(2).transpose(1, 2)


def mean_over_tokens(values_BN: Tensor, mask_BN: Tensor | None) -> Tensor:
    if mask_BN is None:
        return values_BN.mean(dim=1)
    return torch.where(mask_BN, values_BN, 0.0).sum(dim=1) / mask_BN.sum(dim=1).clamp(min=1)
