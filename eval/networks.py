"""Preflight: every network that the protocol needs, built or found missing before the first batch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..common.errors import MissingWeights, one_line
from .metrics.inception import InceptionExtractor, RandomConvolutions
from .protocol import Protocol

LpipsFactory = Callable[..., Any]  # (net=, weights=, setting=) -> callable with `weights_are_random`


@dataclass
class Networks:
    """What could be built, what could not and why, and one line for each."""

    extractor: InceptionExtractor | RandomConvolutions | None = None
    lpips: dict[str, Callable[[Tensor, Tensor], Tensor]] = field(default_factory=dict)  # result key -> network
    random: list[str] = field(default_factory=list)
    not_computed: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def leave_out_too_small(self, image_size: tuple[int, int]) -> None:
        """LPIPS nets whose pooling would leave nothing of such images."""
        for key, network in list(self.lpips.items()):
            smallest = getattr(network, "smallest_image", 0)
            if min(image_size) < smallest:
                del self.lpips[key]
                reason = f"needs images of {smallest} pixels or more, these have {min(image_size)}"
                self.not_computed[key.partition("[")[0]] = reason
                if key in self.random:
                    self.random.remove(key)


def resolve_networks(
    protocol: Protocol, *, device: torch.device, lpips_factory: LpipsFactory | None = None
) -> Networks:
    """`lpips_factory` stands in for losses.lpips.LPIPSNet in tests."""
    found = Networks()
    if {"rfid", "inception_score"} & set(protocol.metrics):
        _resolve_extractor(found, protocol, device)
    for net in ("vgg", "alex"):
        if f"lpips_{net}" in protocol.metrics:
            _resolve_lpips(found, net, getattr(protocol, f"lpips_{net}"), device, lpips_factory)
    return found


def _resolve_extractor(found: Networks, protocol: Protocol, device: torch.device) -> None:
    wanted = [m for m in ("rfid", "inception_score") if m in protocol.metrics]
    cls = InceptionExtractor if protocol.extractor == "inception-2015" else RandomConvolutions
    try:
        extractor = cls(protocol=protocol, device=device)
    except MissingWeights as error:
        reason = one_line(error)
        found.not_computed |= dict.fromkeys(wanted, reason)
        found.lines.append(f"{protocol.extractor}: missing; {', '.join(wanted)} left out. {reason}")
        return
    found.extractor = extractor
    if extractor.weights_are_random:
        found.random.append(extractor.name)
        found.lines.append(f"{extractor.name}: RANDOM weights, numbers are marked and never called rFID")
    else:
        found.lines.append(f"{extractor.name}: {extractor.file} (sha256 {extractor.sha256[:8]})")
    if "inception_score" in wanted and not extractor.has_logits:
        found.not_computed["inception_score"] = (
            f"{extractor.name} has no classes; needs protocol.extractor=inception-2015"
        )


def _resolve_lpips(found: Networks, net: str, weights: str, device: torch.device, factory: LpipsFactory | None) -> None:
    key = f"lpips_{net}"
    if factory is None:
        from ..losses.lpips import LPIPSNet as factory  # noqa: N813
    try:
        network = factory(net=net, weights=weights, setting=f"protocol.{key}")
    except MissingWeights as error:
        found.not_computed[key] = one_line(error)
        found.lines.append(f"{key}: missing; left out. {found.not_computed[key]}")
        return
    if isinstance(network, torch.nn.Module):
        network = network.to(device).eval().requires_grad_(False)
    origin = getattr(network, "origin", None)
    mark = "random" if network.weights_are_random else "" if origin is None else origin.label
    if network.weights_are_random:
        found.random.append(f"{key}[random]")
        found.lines.append(f"{key}: RANDOM trunk, the number is marked")
    else:
        other = f"; not the published file, the number is marked [{mark}]" if mark else ""
        found.lines.append(f"{key}: {weights}{other}")
    key = f"{key}[{mark}]" if mark else key
    found.lpips[key] = network
