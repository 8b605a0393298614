"""Base class of loss terms."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..common.caption_numbers import CaptionNumbers
from ..common.types import TokenizerOutput
from ..common.weights import origins


class LossTerm(nn.Module, ABC):
    """One unweighted, named number; its weight and its schedule live in WeightedLosses.

    Parameters of a term (projectors, logit scales) train with the generator and are checkpointed, never exported.
    A frozen network is held as `self.net = Frozen(network)`.
    """

    needs_reconstruction: bool = False
    needs_captions: bool = False
    caption_numbers: CaptionNumbers | None = None  # of one that reads captions as these numbers
    taps: Mapping[str, str] = MappingProxyType({})  # {name in output.features: module path in the tokenizer}
    free: bool = False  # True: costs nothing, so it is logged at weight 0 as well
    is_error: bool = True  # False: a weight below 0 makes sense too
    optional: bool = False  # True: left out, with a note, where the tokenizer does not offer what it reads
    teacher: str | None = None  # name in cfg.teacher, of a TeacherTerm, which gets that network before `misfit`
    saved_with_export: bool = False  # True: has a `reading`, and is saved in alignment/ next to the tokenizer

    @abstractmethod
    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor: ...

    def misfit(self, tokenizer: nn.Module) -> str | None:
        """Why this term cannot work with this tokenizer, to be read after `loss.NAME`; None: it can."""
        decoder: Any = tokenizer.decoder
        if self.needs_reconstruction and not decoder.cheap_sample:
            kind = type(decoder).__name__
            return f": it compares a reconstruction, and tokenizer.decoder ({kind}) gives none in training"
        return None

    def set_update(self, update: int) -> None:
        """Called before every forward, for schedules inside the term."""

    def after_step(self) -> None:
        """Called after every optimizer step, for limits of the term's own parameters."""

    def micro_batch_misfit(self) -> str | None:
        """Why the mean over an update's micro-batches is not this loss of the update, to be read after `loss.NAME`."""
        return None

    def is_available(self, output: TokenizerOutput) -> bool:
        """False where this output has nothing to read: in eval mode parts may leave their training losses out."""
        return True

    @property
    def weights_are_random(self) -> bool:
        """Of a frozen network of this term: its numbers then mean nothing, and reports say so."""
        return any(origin.random for origin in origins(self))


class ReconstructionTerm(LossTerm):
    """Mean over the batch of a distance between the unclamped reconstruction and the image.

    skip_masked_samples: leave out what quantized.sample_mask excludes. Off: quantizer dropout (XQ-GAN), the method that
    sets the mask, keeps its samples in the reconstruction terms and takes them out of the semantic ones only.
    """

    needs_reconstruction = True

    def __init__(self, *, skip_masked_samples: bool = False) -> None:
        super().__init__()
        self.skip_masked_samples = skip_masked_samples

    def forward(self, batch: Mapping[str, Any], output: TokenizerOutput) -> Tensor:
        assert output.reconstruction is not None, "misfit refuses decoders without one"
        distance_B = self.distance(output.reconstruction, batch["image"])
        return mean_over_samples(distance_B, output.quantized.sample_mask if self.skip_masked_samples else None)

    @abstractmethod
    def distance(self, images: Tensor, target: Tensor) -> Tensor:
        """[B], fp32."""


def mean_over_samples(values_B: Tensor, keep_B: Tensor | None) -> Tensor:
    """Mean of per-sample values, of the kept samples only; 0 when a batch keeps none."""
    if keep_B is None:
        return values_B.mean()
    return torch.where(keep_B, values_B, 0.0).sum() / keep_B.sum().clamp(min=1)
