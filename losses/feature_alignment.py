"""Cosine loss between inner features of the tokenizer and a frozen teacher's (REPA, Yu et al., arXiv 2410.06940)."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.types import Grid, Stream, TokenizerOutput
from .teacher_term import TeacherTerm, resampled
from .teachers.base import SemanticTeacher


class FeatureAlignment(TeacherTerm):
    """1 - cosine to the teacher's tokens, mean over positions; GigaTok has it too.

    teacher: a name of cfg.teacher. feature: path of the module whose output is aligned, one vector a patch, as
        decoder.blocks.7. The teacher's tokens are resampled to as many.
    projector: hidden width of the MLP of three layers in between, REPA's, trained with the generator and never
        exported; None: no projector, for features that are as wide as the teacher's.
    dim: channels of the feature; needed with a projector.
    """

    def __init__(self, *, teacher: str, feature: str, projector: int | None = 2048, dim: int | None = None) -> None:
        super().__init__(teacher=teacher)
        if projector is not None and dim is None:
            raise ValueError("dim=None: a projector needs the feature's channels, e.g. ${tokenizer.decoder.width}")
        self.feature, self.hidden, self.dim = feature, projector, dim
        self.taps = {feature: feature}
        self.projector: nn.Module = nn.Identity()

    def learn_from(self, teacher: SemanticTeacher) -> None:
        super().learn_from(teacher)
        if self.hidden is not None:
            assert self.dim is not None, "checked above"
            sizes = (self.dim, self.hidden, self.hidden, teacher.tokens_dim)
            first, second, third = (nn.Linear(a, b) for a, b in pairwise(sizes))
            self.projector = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), third)

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        with torch.no_grad():
            seen = self.network(batch["image"])
        ours = self.projector(output.features[self.feature]).float()
        grid = image_grid(ours.shape[1], batch["image"].shape[-2:])
        theirs = resampled(seen, Stream(ours, grid)).float()
        return (1 - F.cosine_similarity(ours, theirs, dim=-1)).mean()

    def is_available(self, output: TokenizerOutput) -> bool:
        """Flow decoders and alignment heads run in training only."""
        return self.feature in output.features


def image_grid(count: int, image_size: Sequence[int]) -> Grid:
    """Of `count` cells, shaped like the image."""
    rows = round((count * image_size[0] / image_size[1]) ** 0.5)
    assert rows > 0 and count % rows == 0, f"{count} vectors are no grid over an image of {tuple(image_size)}"
    return rows, count // rows
