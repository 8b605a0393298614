"""One network's optimizer with what belongs to it: loss scale, clipping, learning rate."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .optimizers import LearningRate, build_optimizer, learning_rate

if TYPE_CHECKING:
    from .module import TokenizerTraining


def optimized(training: "TokenizerTraining") -> dict[str, tuple[Mapping[str, Any], list[nn.Module], str]]:
    """{network: (its optimizer's node, what that trains, the node's key)}.

    `generator`: the tokenizer and what loss terms train beside it; `adversary`: the discriminator, if any.
    """
    networks = {"generator": (training.optimizer_node, [training.tokenizer, training.losses], "optimizer")}
    if training.adversary is not None:
        own = training.adversary.optimizer
        node = training.optimizer_node if own is None else own
        networks["adversary"] = (node, [training.adversary], "optimizer" if own is None else "adversary.optimizer")
    return networks


def build_steppers(training: "TokenizerTraining") -> dict[str, "Stepper"]:
    return {
        name: Stepper(
            optimizer=build_optimizer(node, modules, key=key),
            schedule=learning_rate(node.get("schedule"), total=training.settings.max_updates, key=f"{key}.schedule"),
            clip=training.settings.clip,
            scaler=training.precision.scaler(),
        )
        for name, (node, modules, key) in optimized(training).items()
    }


class Stepper:
    def __init__(
        self,
        *,
        optimizer: torch.optim.Optimizer,
        schedule: LearningRate,
        clip: float | None,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        self.optimizer, self.schedule, self.clip, self.scaler = optimizer, schedule, clip, scaler
        self.base_rates = [group["lr"] for group in optimizer.param_groups]

    def begin(self, update: int) -> None:
        factor = self.schedule(update)
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
