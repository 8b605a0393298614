"""Contrastive loss on the mean code vector of an image, of ImageFolder and XQ-GAN.

Li et al., arXiv 2410.01756, section 3.3: InfoNCE, both ways, between a frozen teacher's class token and the codes.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.schedule import schedule_of
from ...common.types import TokenizerOutput
from ..teacher_term import TeacherTerm
from .pairs import symmetric_infonce


class SemanticInfoNCE(TeacherTerm):
    """Reads the mean of one branch's codes, and the teacher's vector through the encoder's own `project`.

    branch: which of the encoder's branches; -1, the last, as published; 0 for XQ-GAN's detail loss.
    teacher_reads: pooled (the class token), or patches: their mean.
    scale: of the logits, a number or a schedule over updates. unit_length: of both sides first, then scale should be
        large (XQ-GAN: from 1 to 100).
    leave_out: share of the batch, its first images, that takes no part, as do the samples that the quantizer excludes.
    The projection belongs to the tokenizer, which checkpoints it.
    """

    def __init__(
        self,
        *,
        teacher: str = "dinov2_b_16",
        branch: int = -1,
        teacher_reads: Literal["pooled", "patches"] = "pooled",
        scale: float | Mapping[str, Any] = 1.0,
        unit_length: bool = False,
        leave_out: float = 0.0,
    ) -> None:
        super().__init__(teacher=teacher)
        if not 0 <= leave_out < 1:
            raise ValueError(f"leave_out={leave_out}: a share of the batch, from 0 to below 1")
        self.teacher_reads = teacher_reads
        self.branch, self.unit_length, self.leave_out = branch, unit_length, leave_out
        self.scales = schedule_of(scale, key="scale")
        self.scale = self.scales(0)
        self.project: Callable[[Tensor], Tensor] | None = None
        self.branches = 1

    def misfit(self, tokenizer: nn.Module) -> str | None:
        """Called once, before training: takes the tokenizer's projection, as a method and so no part of this term."""
        encoder: Any = tokenizer.encoder
        if not isinstance(getattr(encoder, "project", None), nn.Linear) or not hasattr(encoder, "branches"):
            return f": tokenizer.encoder ({type(encoder).__name__}) has no branches with a shared projection"
        if not -encoder.branches <= self.branch < encoder.branches:
            return f".term.branch={self.branch}: the encoder has {encoder.branches} branches"
        dim = self.network.pooled_dim if self.teacher_reads == "pooled" else self.network.tokens_dim
        if dim != encoder.project.in_features:
            return (
                f".term.teacher={self.teacher}: {dim} features, tokenizer.encoder.width is "
                f"{encoder.project.in_features}; the published pair is of one width"
            )
        self.project, self.branches = encoder.project.__call__, encoder.branches
        return None

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        assert self.project is not None, "misfit comes first"
        seen = self.network(batch["image"])
        taught_BD = seen.pooled_BD if self.teacher_reads == "pooled" else seen.tokens_BND.mean(dim=1)
        codes = output.quantized.codes["main"].x_BND.unflatten(2, (self.branches, -1))[:, :, self.branch].mean(dim=1)
        meaning = self.project(taught_BD)
        keep_B = torch.arange(len(codes), device=codes.device) >= int(len(codes) * self.leave_out)
        if output.quantized.sample_mask is not None:
            keep_B = keep_B & output.quantized.sample_mask
        with torch.autocast(codes.device.type, enabled=False):
            codes, meaning = codes.float(), meaning.float()
            if self.unit_length:
                codes, meaning = F.normalize(codes, dim=1), F.normalize(meaning, dim=1)
            return symmetric_infonce(meaning, codes, keep_B, scale=self.scale, join=self.training)

    def micro_batch_misfit(self) -> str | None:
        return ": it contrasts all images of an update, and a micro-batch has only some; more processes instead"

    def set_update(self, update: int) -> None:
        self.scale = self.scales(update)
