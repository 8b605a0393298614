"""The frozen text tower of a CLIP, whose token features TA-TiTok's decoder reads (Kim et al., arXiv 2501.07730)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...common.caption_numbers import CaptionNumbers
from ...common.devices import moved
from ...common.errors import UserError
from ...common.frozen import Frozen
from ...common.weights import fetching
from .base import Conditioner

SETTING = "tokenizer.conditioner.weights"
VOCABULARY = 49408  # of CLIP's own byte-pair tokenizer, which comes with open_clip


class CLIPText(Conditioner):
    """Features [B, length, width] of every caption token after the last norm, not pooled.

    model: a name of open_clip's list. weights: pretrained (OpenAI's), PATH of an open_clip state dict, or random.
        Null where a loaded config named a PATH: `weights` is then set on the object before the first caption.
    width, depth, num_heads: of the tower; held against what is loaded.
    The tower is made when the first caption comes, and is in no checkpoint or export: those name it.
    """

    published_weights: ClassVar[bool] = True

    def __init__(
        self,
        *,
        model: str = "ViT-L-14-336",
        weights: str | None = "pretrained",
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
        self.tower: Frozen | None = None
        self.caption_numbers = CaptionNumbers(key=f"clip_{length}", make_words=partial(_words, length))

    @torch.no_grad()
    def forward(self, captions: Sequence[str] | Tensor) -> Tensor:
        if not isinstance(captions, Tensor):
            if isinstance(captions, str) or not all(isinstance(text, str) for text in captions):
                raise UserError("conditioner: give a list of captions, one per image")
            assert self.caption_numbers is not None
            captions = self.caption_numbers(captions)
        self.load()
        assert self.tower is not None
        numbers = moved(captions, self.device_mark.device)
        with torch.autocast(self.device_mark.device.type, enabled=False):
            return self.tower(numbers)[1].float()

    def load(self) -> None:
        if self.tower is None:
            self.tower = Frozen(self._load(_open_clip()).to(self.device_mark.device))

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
        return tower

    def _load_clip(self, open_clip: Any) -> Any:
        if self.weights is None:
            raise UserError(
                f"{SETTING}: the loaded config names a file, which is not read; set tokenizer.conditioner.weights = "
                "PATH in Python, or write pretrained into config.json"
            )
        source = "openai" if self.weights == "pretrained" else str(Path(self.weights).expanduser())
        if source != "openai" and not Path(source).is_file():
            raise UserError(f"{SETTING}={self.weights}: no such file; give an open_clip checkpoint, or random")
        if self.model not in open_clip.list_models():
            raise UserError(f"tokenizer.conditioner.model={self.model}: open_clip knows no such model; ViT-L-14-336")
        # OpenAI's towers have their own GELU, whatever file their weights come from.
        options = {"pretrained": source, "force_quick_gelu": True, "force_custom_text": True}
        if source == "openai":
            with fetching(f"OpenAI's {self.model}", source=self.weights, setting=SETTING):
                return open_clip.create_model(self.model, **options).text
        try:
            return open_clip.create_model(self.model, **options).text
        except Exception as error:  # unpickling raises a dozen unrelated types
            raise UserError(f"{SETTING}={self.weights}: not weights of {self.model} ({error})") from error


def _words(length: int) -> Any:
    return _open_clip().get_tokenizer("ViT-B-32", context_length=length)


def _open_clip() -> Any:
    try:
        import open_clip
        import open_clip.transformer
    except ImportError as error:
        raise UserError(
            "tokenizer.conditioner: captions need the package open_clip: pip install open_clip_torch"
        ) from error
    return open_clip
