"""One network's optimizer with what belongs to it: loss scale, clipping, learning rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from ..objectives import Objectives
from .clipping import scale_down, total_norm
from .optimizers import LearningRate, build_optimizer, learning_rate
from .state_order import in_module_order, in_own_order, joined


@dataclass(frozen=True, kw_only=True)
class Network:
    """What one optimizer trains. first: the update from which its schedule counts; key: where its node lies."""

    node: Mapping[str, Any]
    modules: Sequence[nn.Module]
    key: str = "optimizer"
    first: int = 0

    def build_optimizer(self) -> torch.optim.Optimizer:
        return build_optimizer(self.node, self.modules, key=self.key)

    def learning_rate(self, max_updates: int) -> LearningRate:
        total = max(max_updates - self.first, 0)
        return learning_rate(self.node.get("schedule"), total=total, key=f"{self.key}.schedule")


def networks_of(objectives: Objectives, node: Mapping[str, Any]) -> dict[str, Network]:
    """`generator`: the tokenizer and the trained parts of loss terms; `adversary`: the discriminator, if any."""
    networks = {"generator": Network(node=node, modules=[objectives.tokenizer, objectives.losses])}
    if (adversary := objectives.adversary) is not None:
        own, key = adversary.optimizer, "adversary.optimizer"
        if own is None:  # `no_decay` names parts of the tokenizer
            own, key = {k: v for k, v in node.items() if k != "no_decay"}, "optimizer"
        first = adversary.first_update if adversary.own_clock else 0
        networks["adversary"] = Network(node=own, modules=[adversary], key=key, first=first)
    return networks


class Stepper:
    """The optimizer of `network`, clipped to the norm `clip`."""

    def __init__(
        self, network: Network, *, max_updates: int, clip: float | None, scaler: torch.amp.GradScaler | None
    ) -> None:
        self.optimizer, self.schedule = network.build_optimizer(), network.learning_rate(max_updates)
        self.modules = network.modules
        self.first, self.clip, self.scaler = network.first, clip, scaler
        self.base_rates = [group["lr"] for group in self.optimizer.param_groups]

    def set_rate(self, update: int) -> None:
        """update: the number of finished ones."""
        factor = self.schedule(max(update - self.first, 0))
        for group, base in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = base * factor

    def scaled(self, loss: Tensor) -> Tensor:
        return self.scaler.scale(loss) if self.scaler else loss

    def finish_gradients(self) -> Tensor:
        """Undo the loss scale; returns the norm before clipping, on the device."""
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        self.norm = total_norm(self.gradients)
        return self.norm

    def step(self, optimizer: LightningOptimizer, *, finite: bool) -> None:
        """Without `finite` only the loss scale moves.

        optimizer: Lightning's wrapping of this one; its step calls `on_before_optimizer_step` of all callbacks.
        """
        if finite:
            optimizer.step()  # not the scaler's, which would only ask once more whether gradients are finite
        if self.scaler:
            self.scaler.update()

    def step_if(self, finite: Tensor, optimizer: LightningOptimizer) -> None:
        """As `step`, without the host waiting for `finite` where the optimizer's kernels can read it themselves."""
        if not getattr(self.optimizer, "_step_supports_amp_scaling", False):
            self.step(optimizer, finite=bool(finite))
            return
        self.optimizer.found_inf = 1 - finite  # type: ignore[attr-defined]  # GradScaler's way to skip a step
        self.step(optimizer, finite=True)
        del self.optimizer.found_inf  # type: ignore[attr-defined]

    def clip_gradients(self) -> None:
        if self.clip is not None:
            scale_down(self.gradients, norm=self.norm, largest=self.clip)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def in_module_order(self) -> list[torch.nn.Parameter]:
        """As the saved state counts them."""
        return [p for params in joined(self.optimizer, self.modules) for p in params]

    @property
    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None]

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def state_dict(self) -> dict[str, Any]:
        state = in_module_order(self.optimizer, self.modules)
        return {"optimizer": state, "scaler": self.scaler.state_dict() if self.scaler else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Running means of the optimizer come back; lr, betas and decay stay as the YAML says now."""
        now = [{k: v for k, v in g.items() if k != "params"} for g in self.optimizer.param_groups]
        self.optimizer.load_state_dict(in_own_order(state["optimizer"], self.optimizer, self.modules))
        for group, settings in zip(self.optimizer.param_groups, now, strict=True):
            group.update(settings)
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
