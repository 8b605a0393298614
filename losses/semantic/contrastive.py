"""Contrastive losses between images' codes and captions, over the batches of all processes: CLIP's and SigLIP's."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...common.caption_numbers import CaptionNumbers
from ...common.distributed import rank, rows_of_all
from ...common.errors import UserError
from ...common.types import TokenizerOutput
from ..base import LossTerm
from ..source import Reading
from ..teacher_term import projection
from ..teachers.text_tower import TextTower
from .pairs import symmetric_infonce


class ContrastiveTerm(LossTerm):
    """reads: as in Reading; the tokens' mean, through `projector` (linear, mlp, or none for a head
    that is as wide as the tower), is the image's vector.

    tower: what reads the captions. Tower, projection, scale and bias belong to this term: they train and are
    checkpointed with it, and are saved in `alignment/` next to an export, never in it.
    """

    needs_captions = True
    saved_with_export = True

    def __init__(
        self,
        *,
        tower: TextTower,
        reads: str = "codes.main",
        projector: Literal["linear", "mlp", "none"] = "linear",
    ) -> None:
        super().__init__()
        if not isinstance(tower, TextTower):
            raise ValueError("tower: give the node of a TextTower")
        self.tower = tower
        self.caption_numbers: CaptionNumbers = tower.caption_numbers
        self.reading = Reading.parse(reads)
        self.taps = self.reading.taps
        self.projector_kind = projector
        self.projector: nn.Module = nn.Identity()

    def misfit(self, tokenizer: nn.Module) -> str | None:
        """Called once, before training: here the projection learns its width."""
        if reason := self.reading.misfit(tokenizer):
            return reason
        width = self.reading.width(tokenizer)
        if width is None:
            return f".term.reads={self.reading.kind}.{self.reading.name}: its width is not known; read codes or a head"
        if self.projector_kind == "none":
            if width != self.tower.dim:
                return f".term.projector=none: {width} channels are read, and the text tower gives {self.tower.dim}"
        else:
            self.projector = projection(width, self.tower.dim, kind=self.projector_kind)
        return super().misfit(tokenizer)

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        captions = batch.get("caption")
        if captions is None or any(c is None for c in captions):
            raise UserError("data: a contrastive loss needs captions, and these images have none; see data.captions")
        pair = self.images(output), self.texts(self.caption_numbers.of(batch))
        with torch.autocast(pair[0].device.type, enabled=False):
            # Only in training: the processes' shares of the validation images differ in number.
            return self.loss(*(F.normalize(x.float(), dim=-1) for x in pair), join=self.training)

    def micro_batch_misfit(self) -> str | None:
        return ": it contrasts all images of an update, and a micro-batch has only some; more processes instead"

    @abstractmethod
    def loss(self, images_BD: Tensor, texts_BD: Tensor, *, join: bool = False) -> Tensor:
        """Of unit vectors; row i of one belongs to row i of the other.

        join: against those of all processes as well; the processes' mean is then the joined batch's loss.
        """

    def images(self, output: TokenizerOutput) -> Tensor:
        return self.projector(self.reading.of(output).mean())

    def texts(self, captions: Sequence[str] | Tensor) -> Tensor:
        return self.tower(captions)


class ClipInfoNCE(ContrastiveTerm):
    """InfoNCE over image-caption pairs, in both directions: CLIP's loss (UniTok, QLIP, VTP).

    Radford et al., arXiv 2103.00020, section 2.3 and figure 3.
    temperature: at the start; its logarithm trains, and the scale stays between 1 and max_scale.
    """

    def __init__(
        self,
        *,
        tower: TextTower,
        reads: str = "codes.main",
        projector: Literal["linear", "mlp", "none"] = "linear",
        temperature: float = 0.07,
        max_scale: float = 100.0,
    ) -> None:
        super().__init__(tower=tower, reads=reads, projector=projector)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / temperature)))
        self.max_scale = max_scale

    def loss(self, images_BD: Tensor, texts_BD: Tensor, *, join: bool = False) -> Tensor:
        return symmetric_infonce(images_BD, texts_BD, scale=self.log_scale.exp(), join=join)

    @torch.no_grad()
    def after_step(self) -> None:
        # The parameter itself: clamped in the forward it would have no gradient beyond the limit, and stay there.
        self.log_scale.clamp_(0.0, math.log(self.max_scale))


class SigLIP(ContrastiveTerm):
    """Binary cross-entropy over all pairs of an image and a caption (Zhai et al., arXiv 2303.15343, section 3.2).

    scale and bias: at the start, 10 and -10 in the paper, since most pairs do not match; both train.
    """

    def __init__(
        self,
        *,
        tower: TextTower,
        reads: str = "codes.main",
        projector: Literal["linear", "mlp", "none"] = "linear",
        scale: float = 10.0,
        bias: float = -10.0,
    ) -> None:
        super().__init__(tower=tower, reads=reads, projector=projector)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def loss(self, images_BD: Tensor, texts_BD: Tensor, *, join: bool = False) -> Tensor:
        texts_CD, first = (rows_of_all(texts_BD), rank() * len(texts_BD)) if join else (texts_BD, 0)
        logits_BC = self.log_scale.exp() * images_BD @ texts_CD.T + self.bias
        partner_B = torch.arange(first, first + len(images_BD), device=images_BD.device)
        is_pair_BC = torch.arange(len(texts_CD), device=images_BD.device) == partner_B[:, None]
        return -F.logsigmoid(torch.where(is_pair_BC, logits_BC, -logits_BC)).sum() / len(images_BD)
