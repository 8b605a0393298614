"""The metrics that a protocol asks for, with their networks built, or the reason why one of them is missing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torchmetrics import MetricCollection

from ...common.errors import MissingWeights, one_line
from ...common.types import IndexSegment
from ..protocol import Protocol
from .base import Measured, Metric, TooFewImages
from .networks import Network
from .psnr import Psnr
from .registry import build_metric


class ChosenMetrics:
    """Networks are found before the first batch: a missing file must not come up after 50,000 images.

    asked: every metric by name. present: those that will be measured. not_computed: why the others will not be.
    lines: one for each network, to print. psnr: always measured, for the images are sorted by it.
    """

    def __init__(self, protocol: Protocol, *, device: torch.device) -> None:
        self.protocol, self.device = protocol, device
        self.states_on = torch.device("cpu") if device.type == "mps" else device  # no float64 there
        self.asked = {name: build_metric(name, protocol).to(self.states_on) for name in protocol.metrics}
        self.not_computed: dict[str, str] = {}
        self.lines: list[str] = []
        for network in dict.fromkeys(m.needs for m in self.asked.values() if m.needs is not None):
            self._prepare(network, {name: m for name, m in self.asked.items() if m.needs == network})
        self.present = {name: m for name, m in self.asked.items() if name not in self.not_computed}
        psnr = self.present.get("psnr")
        self.psnr = psnr if isinstance(psnr, Psnr) else Psnr(cap=protocol.psnr_cap).to(self.states_on)

    def _prepare(self, network: Network, metrics: Mapping[str, Metric]) -> None:
        try:
            modules = [metric.prepare(self.device).module for metric in metrics.values()]
        except MissingWeights as error:
            reason = one_line(error)
            self.not_computed |= dict.fromkeys(metrics, reason)
            self.lines.append(f"{', '.join(metrics)}: left out, {reason}")
            return
        module = modules[0]
        shown = "RANDOM weights, its numbers are marked" if module.weights_are_random else module.source
        self.lines.append(f"{module.label}: {shown}")

    def start(self, image_size: tuple[int, int], layout: Sequence[IndexSegment]) -> None:
        """Leaves out what such images or codes do not allow."""
        for name, metric in list(self.present.items()):
            reason = metric.start(image_size, layout)
            if reason is not None:
                self.not_computed[name] = reason
                del self.present[name]
        self.collection = collection(self.present | {"psnr": self.psnr})

    def on_curve(self) -> dict[str, Metric]:
        """Fresh ones, with the same networks, for one point of the curve over lengths."""
        names = [name for name, metric in self.present.items() if metric.on_curve]
        fresh = {name: build_metric(name, self.protocol).to(self.states_on) for name in names}
        for metric in fresh.values():
            if metric.needs is not None:
                metric.prepare(self.device)
        return fresh

    @property
    def random(self) -> list[str]:
        """What stands in place of networks with published weights."""
        modules = [metric.network.module for metric in self.present.values() if metric.needs is not None]
        return sorted({module.label for module in modules if module.weights_are_random})

    def results(self, measured: Measured) -> tuple[dict[str, Any], list[str]]:
        """Entries of metrics.json, and warnings; over all processes, each of which must call it."""
        found: dict[str, Any] = {}
        said: list[str] = []
        for name, metric in self.present.items():
            try:
                entries = metric.entries(measured)
            except TooFewImages as error:
                self.not_computed[name] = str(error)
                continue
            found |= entries
            said += metric.warnings(entries)
        return found, said


def collection(metrics: Mapping[str, Metric]) -> MetricCollection:
    """Without compute groups: torchmetrics takes two metrics for one if their first batch gave the same state."""
    return MetricCollection(dict(metrics), compute_groups=False)


def is_present(results: Iterable[str], metric: Metric) -> bool:
    """Whether its result is there, under the name that only published weights give it."""
    return any(key == metric.main_key or key.startswith(f"{metric.main_key}@") for key in results)
