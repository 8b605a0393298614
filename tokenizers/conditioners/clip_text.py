"""The frozen text tower of a CLIP, whose token features TA-TiTok's decoder reads (Kim et al., arXiv 2501.07730)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...common.errors import MissingWeights, UserError
from .base import Conditioner

SETTING = "tokenizer.conditioner.weights"
VOCABULARY = 49408  # of CLIP's own byte-pair tokenizer, which comes with open_clip


class CLIPText(Conditioner):
    """Features [B, length, width] of every caption token after the last norm, not pooled.

    model: a name of open_clip's list. weights: pretrained (OpenAI's), PATH of an open_clip state dict, or random.
    width, depth, num_heads: of the tower; held against what is loaded.
    The tower is made when the first caption comes, and is in no checkpoint or export: those name it.
    """

    tower: nn.Module | None  # in `__dict__`: no child, so in no state dict

    def __init__(
        self,
        *,
        model: str = "ViT-L-14-336",
        weights: str = "pretrained",
        width: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        length: int = 77,
    ) -> None:
        super().__init__()
        if width % num_heads and weights == "random":
            raise ValueError(f"num_heads={num_heads}: width={width} cannot be split into that many heads")
        self.model, self.weights, self.depth, self.num_heads = model, weights, depth, num_heads
        self.dim, self.length = width, length
        self.device_mark = nn.Buffer(torch.zeros(()), persistent=False)
        self.__dict__["tower"] = None

    @torch.no_grad()
    def forward(self, captions: Sequence[str]) -> Tensor:
        if isinstance(captions, str) or not all(isinstance(text, str) for text in captions):
            raise UserError("conditioner: give a list of captions, one text per image")
        open_clip = _open_clip()
        tower = self.tower
        if tower is None:
            tower = self.__dict__["tower"] = self._load(open_clip).to(self.device_mark.device)
        ids = open_clip.get_tokenizer("ViT-B-32", context_length=self.length)(list(captions))
        with torch.autocast(self.device_mark.device.type, enabled=False):
            return tower(ids.to(self.device_mark.device))[1].float()

    def _load(self, open_clip: Any) -> Any:
        if self.weights == "random":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                tower = open_clip.transformer.TextTransformer(
                    context_length=self.length,
                    vocab_size=VOCABULARY,
                    width=self.dim,
                    heads=self.num_heads,
                    layers=self.depth,
                    output_dim=self.dim,
                )
        else:
            tower = self._load_clip(open_clip)
            if (found := (tower.ln_final.weight.shape[0], tower.context_length)) != (self.dim, self.length):
                raise UserError(
                    f"tokenizer.conditioner.model={self.model}: width and length {found}, but this tokenizer's are "
                    f"{(self.dim, self.length)}"
                )
        tower.output_tokens = True
        return tower.requires_grad_(False).eval()

    def _load_clip(self, open_clip: Any) -> Any:
        source = "openai" if self.weights == "pretrained" else str(Path(self.weights).expanduser())
        if source != "openai" and not Path(source).is_file():
            raise UserError(f"{SETTING}={self.weights}: no such file; give an open_clip checkpoint, or random")
        if self.model not in open_clip.list_models():
            raise UserError(f"tokenizer.conditioner.model={self.model}: open_clip knows no such model; ViT-L-14-336")
        try:
            # OpenAI's towers have their own GELU, whatever file their weights come from.
            clip = open_clip.create_model(self.model, pretrained=source, force_quick_gelu=True, force_custom_text=True)
        except Exception as error:  # the hub client and unpickling raise a dozen unrelated types
            if source != "openai":
                raise UserError(f"{SETTING}={self.weights}: not weights of {self.model} ({error})") from error
            raise MissingWeights(
                f"{SETTING}=pretrained: OpenAI's {self.model} is not here and could not be fetched "
                f"({type(error).__name__}); use {SETTING}=PATH, or random to try things"
            ) from error
        return clip.text

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "CLIPText":
        if self.tower is not None:
            self.tower._apply(fn)
        return super()._apply(fn, recurse)


def _open_clip() -> Any:
    try:
        import open_clip
        import open_clip.transformer
    except ImportError as error:
        raise UserError(
            "tokenizer.conditioner: captions need the package open_clip: pip install open_clip_torch"
        ) from error
    return open_clip
