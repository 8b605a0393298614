"""One network's optimizer with what belongs to it: loss scale, clipping, learning rate."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from .optimizers import LearningRate, build_optimizer, learning_rate

if TYPE_CHECKING:
    from ..module import TokenizerTraining


@dataclass(frozen=True, kw_only=True)
class Network:
    """What one optimizer trains. first: the update from which its schedule counts; key: where its node lies."""

    node: Mapping[str, Any]
    modules: Sequence[nn.Module]
    key: str
    first: int = 0

    def build_optimizer(self) -> torch.optim.Optimizer:
        return build_optimizer(self.node, self.modules, key=self.key)

    def learning_rate(self, max_updates: int) -> LearningRate:
        total = max(max_updates - self.first, 0)
        return learning_rate(self.node.get("schedule"), total=total, key=f"{self.key}.schedule")


def optimized(training: "TokenizerTraining") -> dict[str, Network]:
    """`generator`: the tokenizer and what loss terms train beside it; `adversary`: the discriminator, if any."""
    shared = {"node": training.optimizer_node, "key": "optimizer"}
    networks = {"generator": Network(modules=[training.tokenizer, training.losses], **shared)}
    if (adversary := training.adversary) is not None:
        if adversary.optimizer is not None:
            chosen = {"node": adversary.optimizer, "key": "adversary.optimizer"}
        else:  # `no_decay` names parts of the tokenizer
            chosen = shared | {"node": {k: v for k, v in training.optimizer_node.items() if k != "no_decay"}}
        first = adversary.first_update if adversary.own_clock else 0
        networks["adversary"] = Network(modules=[adversary], first=first, **chosen)
    return networks


def build_steppers(training: "TokenizerTraining") -> dict[str, "Stepper"]:
    return {
        name: Stepper(
            optimizer=network.build_optimizer(),
            schedule=network.learning_rate(training.settings.max_updates),
            first=network.first,
            clip=training.settings.clip,
            scaler=training.precision.scaler(),
        )
        for name, network in optimized(training).items()
    }


class Stepper:
    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        schedule: LearningRate,
        clip: float | None,
        scaler: torch.amp.GradScaler | None,
        first: int = 0,
    ) -> None:
        self.optimizer, self.schedule, self.clip, self.scaler = optimizer, schedule, clip, scaler
        self.first = first
        self.base_rates = [group["lr"] for group in optimizer.param_groups]

    def begin(self, update: int) -> None:
        factor = self.schedule(max(update - self.first, 0))
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * factor
        self.optimizer.zero_grad(set_to_none=True)

    def scaled(self, loss: Tensor) -> Tensor:
        return self.scaler.scale(loss) if self.scaler else loss

    def finish_gradients(self) -> Tensor:
        """Undo the loss scale; returns the norm before clipping, on the device."""
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        self.norm = torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        return self.norm

    def step(self, *, finite: bool) -> None:
        """Without `finite` only the loss scale moves."""
        if finite and self.clip is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip, self.norm)
        if finite and self.scaler:
            self.scaler.step(self.optimizer)
        elif finite:
            self.optimizer.step()
        if self.scaler:
            self.scaler.update()

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict() if self.scaler else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Running means of the optimizer come back; lr, betas and decay stay as the YAML says now."""
        now = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, settings in zip(self.optimizer.param_groups, now, strict=True):
            group.update(settings)
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


def gradients_stay_here(trainer: Trainer, *, unless: bool) -> AbstractContextManager:
    """DDP averages gradients in every backward; before the last micro-batch of an update that would be for nothing."""
    model = trainer.strategy.model
    return model.no_sync() if hasattr(model, "no_sync") and not unless else nullcontext()
