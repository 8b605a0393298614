"""What one update of TokenizerTraining did, seen from outside: a callback and hooks that change nothing."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from ..common.types import Quantized, TokenizerOutput
from ..losses.direct_decode import DirectDecode
from ..tokenizers.quantizers.parallel import ParallelQuantizer
from ..training.module import TokenizerTraining

Parameters = dict[str, Tensor]  # by our names
SECOND_STEP = 0.25  # times the clipped gradients of the first; shows the betas


class Seen(Callback):
    """Loss terms, outputs, gradients and parameters around the optimizer's steps, of both networks."""

    output: TokenizerOutput

    def __init__(self, training: TokenizerTraining) -> None:
        self.training = training
        self.update = 0
        self.raw: dict[str, Tensor] = {}
        self.discriminator_total: Tensor | None = None
        self.logits: dict[str, list[Tensor]] = {"generator": [], "discriminator": []}
        self.direct: list[Tensor] = []
        self.direct_terms: dict[str, Tensor] = {}
        self.streams: dict[str, Quantized] = {}  # of parallel quantizers
        self.gradients: dict[str, Parameters] = {}
        self.norms: dict[str, Tensor] = {}
        self.before: dict[str, Parameters] = {}
        self.after: dict[str, list[Parameters]] = {}
        training.tokenizer.register_forward_hook(self._see_output)
        for term in training.losses.terms.values():
            if isinstance(term, DirectDecode):
                self._watch_direct(term)
        if isinstance(quantizer := training.tokenizer.quantizer, ParallelQuantizer):
            for name, part in quantizer.quantizers.items():
                part.register_forward_hook(lambda _m, _i, out, name=name: self.streams.update({name: out}))
        if (adversary := training.adversary) is not None:
            adversary.discriminator.register_forward_hook(self._see_logits)
            own = adversary.discriminator_loss

            def remembered(*given: Any) -> Any:
                loss, logs = own(*given)
                self.discriminator_total = loss.detach()
                return loss, logs

            adversary.discriminator_loss = remembered  # type: ignore[method-assign, assignment]

    # -- in the forward passes --------------------------------------------------------------------------------------

    def _see_output(self, tokenizer: nn.Module, given: Any, output: TokenizerOutput) -> None:
        self.output = output

    def _see_logits(self, discriminator: nn.Module, given: Any, logits: Tensor) -> None:
        frozen = not any(p.requires_grad for p in discriminator.parameters())
        self.logits["generator" if frozen else "discriminator"].append(logits.detach())

    def _watch_direct(self, direct: DirectDecode) -> None:
        for name, term in direct.terms.items():
            term.register_forward_hook(
                lambda _m, _i, value, name=name: self.direct_terms.update({name: value.detach()})
            )
            term.register_forward_pre_hook(lambda _m, given: self.direct.append(given[1].reconstruction.detach()))

    # -- around the steps -------------------------------------------------------------------------------------------

    def on_before_optimizer_step(self, trainer: Any, training: Any, optimizer: torch.optim.Optimizer) -> None:
        """Gradients are those before clipping."""
        for name, stepper in self.training.steppers.items():
            if stepper.optimizer is optimizer:
                named = self.named(name)
                self.gradients[name] = {k: p.grad.clone() for k, p in named.items() if p.grad is not None}
                self.norms[name] = stepper.norm.clone()
                self.before[name] = _values(named)

    def on_train_batch_end(self, *_: Any) -> None:
        self.raw = dict(self.training.sums)
        for name, stepper in self.training.steppers.items():
            if name not in self.before:
                continue
            self.after[name] = [_values(self.named(name))]
            with torch.no_grad():
                for parameter in stepper.parameters:
                    if parameter.grad is not None:
                        parameter.grad *= SECOND_STEP
            stepper.optimizer.step()
            self.after[name].append(_values(self.named(name)))

    def named(self, network: str) -> dict[str, nn.Parameter]:
        """Trained parameters of `generator` (names of the tokenizer, or losses.NAME...) or of the discriminator."""
        if network == "adversary":
            assert self.training.adversary is not None
            named = dict(self.training.adversary.discriminator.named_parameters())
        else:
            named = dict(self.training.tokenizer.named_parameters())
            named |= {f"losses.{name}": p for name, p in self.training.losses.terms.named_parameters()}
        return {name: p for name, p in named.items() if p.requires_grad}

    # -- numbers ----------------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Any:
        """Any: whoever asks knows of which class its parts are."""
        return self.training.tokenizer

    @property
    def adversary(self) -> Any:
        return self.training.adversary

    @property
    def zero(self) -> Tensor:
        return torch.zeros(())

    def weight(self, name: str) -> float:
        return self.training.losses.weights[name](self.update)

    def weighted(self, name: str) -> Tensor:
        """0 for a term that was left out, such as those of a frozen quantizer."""
        return self.weight(name) * self.raw[name] if name in self.raw else self.zero

    def beside_teacher(self, name: str) -> tuple[Tensor, Tensor]:
        """What a term compares, ours and the teacher's."""
        term: Any = self.training.losses.terms[name]
        ((ours, theirs, _),) = term.pairs(self.output.reconstruction, self.output)
        return ours, theirs

    def book(self, stream: str) -> Any:
        """The (first) codebook of a stream's residual quantizer."""
        quantizer: Any = self.training.tokenizer.quantizer
        return quantizer.quantizers[stream].books[0]

    def direct_reconstruction(self) -> Tensor:
        return self.direct[0]


def _values(named: Mapping[str, Tensor]) -> Parameters:
    return {name: parameter.detach().clone() for name, parameter in named.items()}
