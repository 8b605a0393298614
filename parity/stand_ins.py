"""What a stored training step gives in place of frozen networks and of chance, by the name of the stored input."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..common.types import Grid
from ..common.weights import Weights
from ..layers.resnet import to_tokens
from ..losses.adversarial.adversary import Adversary
from ..losses.proxy_codes import ProxyCodes
from ..losses.semantic.contrastive import ContrastiveTerm
from ..losses.teachers.base import SemanticTeacher, TeacherFeatures
from ..losses.teachers.registry import NamedTeachers
from ..losses.total import WeightedLosses
from ..tokenizers.quantizers.shared.depth_dropout import StagedQuantizer
from ..tokenizers.tokenizer import Tokenizer

Tensors = Mapping[str, Tensor]
TEACHER_INPUTS = ("teacher_features", "teacher_tokens", "teacher_pooled")


@dataclass(frozen=True, kw_only=True)
class Step:
    """The objects of one update whose parts are replaced."""

    tokenizer: Tokenizer
    losses: WeightedLosses
    adversary: Adversary | None


class StoredTeacher(SemanticTeacher):
    """The teacher's stored answer, whatever the image."""

    def __init__(self, *, tokens_BND: Tensor | None, pooled_BD: Tensor | None) -> None:
        super().__init__(interpolation="bicubic")
        some = next(x for x in (tokens_BND, pooled_BD) if x is not None)
        tokens = some.new_zeros(len(some), 1, 1) if tokens_BND is None else tokens_BND
        pooled = some.new_zeros(len(some), 1) if pooled_BD is None else pooled_BD
        self.stored = TeacherFeatures(tokens, _grid(tokens.shape[1]), pooled)
        self.tokens_dim, self.pooled_dim = tokens.shape[-1], pooled.shape[-1]
        self.origin = Weights(source="stored", random=False)
        self._finish(image_size=1, mean=(0.0,), deviation=(1.0,))

    def forward(self, images: Tensor) -> TeacherFeatures:
        return self.stored

    def features(self, prepared: Tensor) -> TeacherFeatures:
        return self.stored


def _grid(count: int) -> Grid:
    side = round(count**0.5)
    return (side, side) if side * side == count else (1, count)


class StoredTeachers(NamedTeachers):
    """One stored teacher under every name of cfg.teacher."""

    def __init__(self, nodes: Mapping[str, Any] | None, io: Tensors) -> None:
        super().__init__(nodes)
        tokens = next((io[name] for name in ("teacher_features", "teacher_tokens") if name in io), None)
        pooled = io.get("teacher_pooled")
        there = tokens is not None or pooled is not None
        self.stored = StoredTeacher(tokens_BND=tokens, pooled_BD=pooled) if there else None

    def get(self, name: str, *, asked_by: str) -> SemanticTeacher:
        if self.stored is not None:
            self._built[name] = self.stored
        return super().get(name, asked_by=asked_by)


# -- chance and frozen networks, each with the input that stands in for it ---------------------------------------------


def text_guidance(step: Step, io: Tensors) -> None:
    assert step.tokenizer.conditioner is not None
    _answer(step.tokenizer.conditioner, io["text_guidance"])


def text_features(step: Step, io: Tensors) -> None:
    for term in step.losses.terms.values():
        if isinstance(term, ContrastiveTerm):
            _answer(term.tower, io["text_features"])


def proxy_codes(step: Step, io: Tensors) -> None:
    for term in step.losses.terms.values():
        if isinstance(term, ProxyCodes):
            assert term.net is not None
            _answer(term.net.module, io["proxy_codes"].flatten(1))


def kept_tokens(step: Step, io: Tensors) -> None:
    kept = io["kept_tokens"]

    def draw(batch: int, num_tokens: int, device: torch.device) -> Tensor:
        return kept.reshape(-1).expand(batch) if kept.numel() == 1 else kept[:batch]

    step.tokenizer.variable().draw = draw  # type: ignore[method-assign]


def quantizer_dropout(step: Step, io: Tensors) -> None:
    """Of the first samples only, as many as the quantizer drops."""

    def depths(quantizer: StagedQuantizer) -> Callable[[int, torch.device], Tensor | None]:
        def draw(samples: int, device: torch.device) -> Tensor | None:
            dropped = int(samples * quantizer.quantizer_dropout)
            if not dropped:
                return None
            depths_B = torch.full((samples,), quantizer.stages)
            depths_B[:dropped] = io["quantizer_dropout"][:dropped].long()
            return depths_B

        return draw

    for part in step.tokenizer.modules():
        if isinstance(part, StagedQuantizer):
            part.draw_depths = depths(part)  # type: ignore[method-assign, assignment]


def lecam_before(step: Step, io: Tensors) -> None:
    assert step.adversary is not None and step.adversary.lecam is not None
    step.adversary.lecam.ema_real.copy_(io["lecam_before"][0])
    step.adversary.lecam.ema_fake.copy_(io["lecam_before"][1])


STAND_INS: dict[str, Callable[[Step, Tensors], None]] = {
    "text_guidance": text_guidance,
    "text_features": text_features,
    "proxy_codes": proxy_codes,
    "kept_tokens": kept_tokens,
    "quantizer_dropout": quantizer_dropout,
    "lecam_before": lecam_before,
}


def put_in_place(step: Step, io: Tensors) -> None:
    for name, put in STAND_INS.items():
        if name in io:
            put(step, io)


def _answer(network: nn.Module, stored: Tensor) -> None:
    network.forward = lambda *_, **__: stored  # type: ignore[method-assign]


class _StoredNormal(TorchFunctionMode):
    """The first normal noise that is drawn, like a sample of the posterior, is the stored one."""

    def __init__(self, noise_BND: Tensor) -> None:
        super().__init__()
        self.noise = noise_BND

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.randn_like and args[0].shape == self.noise.shape:
            return self.noise.to(args[0])
        return function(*args, **(kwargs or {}))


@contextmanager
def stored_noise(io: Tensors) -> Iterator[None]:
    with ExitStack() as stack:
        if "noise" in io:
            noise = io["noise"]
            stack.enter_context(_StoredNormal(to_tokens(noise) if noise.ndim == 4 else noise))
        yield


class Flip(nn.Module):
    """In place of the consistency term's augmentation."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flip(-1)
