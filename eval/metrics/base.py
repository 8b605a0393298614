"""Metric over pairs of images: a torchmetrics.Metric that also says how its results are called and shown.

    class Contrast(MeanOverImages):
        quantities = {"contrast": Quantity("Contrast", better="higher")}

        def per_image(self, reference, reconstruction):
            return reconstruction.double().flatten(1).std(1) / reference.double().flatten(1).std(1)

This and `configs/metric/contrast.yaml` with its `_target_` are all that `protocol.metrics=[contrast]` needs.
"""

import re
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torchmetrics
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from ...common.pixels import to_uint8
from ...common.types import IndexSegment
from .choices import Choices
from .networks import Network, SharedNetwork


class TooFewImages(ValueError):
    """A result that does not exist for so few images; the message is the reason that reports give."""


@dataclass(frozen=True)
class Quantity:
    """How tables show one number: its name, its unit, and which way is better."""

    title: str
    unit: str = ""
    better: str = ""  # "higher" | "lower" | "" where neither is
    decimals: int = 4
    curve_decimals: int = 4  # where it stands in a narrow column


@dataclass(frozen=True)
class Row:
    """A line of the metric table of both reports."""

    group: str
    name: str
    value: str
    better: str = ""
    note: str = ""
    random: bool = False  # measured by a network with random weights


@dataclass(frozen=True)
class Measured:
    """What names and derived numbers depend on besides the images' content."""

    image_size: tuple[int, int]
    whole_set: bool = False  # all of the protocol's images, prepared its way


def base_of(key: str) -> str:
    """The result key without `[network]` and `@count`."""
    return re.split(r"[\[@]", key)[0]


def headline(found: Any) -> float:
    """The one number of an entry of metrics.json."""
    return float(found.get("value", found.get("mean")) if isinstance(found, Mapping) else found)


class Metric(torchmetrics.Metric):
    """Subclasses define update() and measure().

    quantities: the numbers of its result by base key; result_keys: all keys it may write, where there are more.
    group: heading of its rows. on_curve: also measured at every length of a tokenizer of variable length.
    of_sets: compares sets of images, so that its numbers are comparable at equal counts only.
    protocol_fields: arguments that come from fields of the protocol. own_fields: arguments that enter the protocol's
    hash where this metric is asked for.
    """

    full_state_update = False
    is_differentiable = False

    quantities: ClassVar[Mapping[str, Quantity]]
    result_keys: ClassVar[tuple[str, ...]] = ()
    group: ClassVar[str] = "Perceptual"
    on_curve: ClassVar[bool] = True
    of_sets: ClassVar[bool] = False
    protocol_fields: ClassVar[Mapping[str, str]] = {}
    own_fields: ClassVar[tuple[str, ...]] = ()

    def __init__(self, *, needs: Network | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.needs = needs
        self._network: SharedNetwork | None = None
        self._row_types: dict[str, torch.dtype] = {}
        self._entries: dict[str, Any] = {}

    # -- what subclasses define ----------------------------------------------------------------------------------------

    @abstractmethod
    def measure(self) -> dict[str, Any]:
        """Entries of metrics.json from the states of all processes; TooFewImages where there is no result."""

    @property
    def main_key(self) -> str:
        """The key of its result where no weight was random."""
        return next(iter(self.quantities))

    def start(self, image_size: tuple[int, int], layout: Sequence[IndexSegment]) -> str | None:
        """Called once before the first batch; the reason why these images or codes cannot be measured, or None."""
        return None

    def entries(self, measured: Measured) -> dict[str, Any]:
        """As `result`, with what depends on more than the images."""
        return self.result()

    def curve_numbers(self) -> dict[str, float]:
        """What a point of the curve over lengths holds."""
        return {key: headline(found) for key, found in self.result().items() if base_of(key) in self.quantities}

    def warnings(self, entries: Mapping[str, Any]) -> list[str]:
        """What readers of these entries must know."""
        return []

    def words(self) -> list[tuple[str, str]]:
        """(name, how it is measured), for the protocol in words."""
        return []

    def describe(self, protocol: Choices) -> list[tuple[str, str]]:
        """Its words, and what depends on more of the protocol than its own settings."""
        return self.words()

    @classmethod
    def note(cls, found: Any) -> str:
        """What stands beside the number in a report."""
        return ""

    @classmethod
    def title_of(cls, key: str) -> str:
        base = base_of(key)
        rest = key.removeprefix(base)
        return cls.quantities[base].title + (f" {rest}" if rest else "")

    @classmethod
    def rows(cls, results: Mapping[str, Any]) -> Iterator[Row]:
        """Its lines of the report, from what metrics.json holds."""
        for key, found in results.items():
            shown = cls.quantities.get(base_of(key))
            if shown is not None:
                value = f"{headline(found):.{shown.decimals}f} {shown.unit}".rstrip()
                name = found["label"] if isinstance(found, Mapping) and "label" in found else cls.title_of(key)
                yield Row(cls.group, name, value, shown.better, cls.note(found), is_random(key))

    # -- what torchmetrics calls ---------------------------------------------------------------------------------------

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The number, or numbers by key."""
        self._entries = self.measure()
        found = {k: headline(v) for k, v in self._entries.items() if base_of(k) in self.quantities}
        values = {k: torch.tensor(v, dtype=torch.float64, device=self.device) for k, v in found.items()}
        return next(iter(values.values())) if len(values) == 1 else values

    def result(self) -> dict[str, Any]:
        """Entries of metrics.json, over all processes; each must call it."""
        with warnings.catch_warnings():  # a process without images of its own has every right to ask
            warnings.filterwarnings("ignore", message="The ``compute`` method of metric")
            self.compute()
        return self._entries

    def _sync_dist(self, dist_sync_fn: Callable = gather_all_tensors, process_group: Any = None) -> None:
        """torchmetrics' stand-in for the rows of a process without images has neither their width nor their type."""
        for name in self._row_types:
            if not getattr(self, name):
                setattr(self, name, [self._no_rows(name)])
        super()._sync_dist(dist_sync_fn, process_group)

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = "") -> torch.nn.Module:
        before = self.device
        super()._apply(fn, exclude_state)
        if self.device != before:
            self._network = None  # looked up again where the states are now
        return self

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_network": None}

    # -- for subclasses ------------------------------------------------------------------------------------------------

    def add_rows(self, name: str, dtype: torch.dtype = torch.float32) -> None:
        """A state that keeps something for each image."""
        self.add_state(name, default=[], dist_reduce_fx="cat")
        self._row_types[name] = dtype

    def row_shape(self, name: str) -> tuple[int, ...]:
        """Of one row of a state of add_rows."""
        return ()

    def rows_of(self, name: str) -> Tensor:
        kept = getattr(self, name)
        return self._no_rows(name) if isinstance(kept, list) and not kept else dim_zero_cat(kept)

    def _no_rows(self, name: str) -> Tensor:
        return torch.empty(0, *self.row_shape(name), dtype=self._row_types[name], device=self.device)

    @property
    def network(self) -> SharedNetwork:
        return self._network or self.prepare(self.device)

    def prepare(self, device: torch.device) -> SharedNetwork:
        """Build the network, or find it built; MissingWeights where its file is neither here nor to be had."""
        assert self.needs is not None, "only metrics that need a network ask for it"
        self._network = self.needs.on(device)
        return self._network

    def pixels(self, *images: Tensor) -> list[Tensor]:
        """uint8 on the states' device."""
        return [as_bytes(x).to(self.device) for x in images]


class MeanOverImages(Metric):
    """Mean of a number that each pair of images has by itself: subclasses define per_image()."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # torchmetrics takes two metrics of a collection for one if their states have equal names and values.
        self.values = f"{self.main_key}_values"
        self.add_rows(self.values, torch.float64)

    @abstractmethod
    def per_image(self, reference: Tensor, reconstruction: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] twice to [B]."""

    def update(self, reference: Tensor, reconstruction: Tensor) -> None:
        if self.needs is None:
            pair = self.pixels(reference, reconstruction)
        else:  # on the network's device, not that of the states
            pair = [as_bytes(reference), as_bytes(reconstruction)]
        getattr(self, self.values).append(self.per_image(*pair).flatten().to(self.device).double())

    def measure(self) -> dict[str, Any]:
        mark = "" if self.needs is None else self.network.mark
        return {self.main_key + mark: self.rows_of(self.values).mean().item()}


def as_bytes(images: Tensor) -> Tensor:
    """uint8 as given; floats in [-1, 1] are rounded, so that a metric may be used alone on either."""
    return images if images.dtype == torch.uint8 else to_uint8(images)


def is_random(key: str) -> bool:
    """A result whose network had random weights is marked in its key."""
    return "[rand" in key
