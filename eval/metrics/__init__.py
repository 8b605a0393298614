"""Metrics of reconstructions, usable alone and in a torchmetrics.MetricCollection.

from imtok.eval.metrics import Psnr

metric = Psnr()
metric.update(images, reconstructions)  # uint8, or floats in [-1, 1]
metric.compute()
"""

import importlib
from typing import Any

_ALSO = {"Metric": "base", "MeanOverImages": "base", "Quantity": "base", "extractor": "features"}


def __getattr__(name: str) -> Any:
    """The class that a YAML of configs/metric names, imported when somebody asks for it."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    from .registry import names_in, yaml_of

    homes = {found: f"{__name__}.{home}" for found, home in _ALSO.items()}
    for metric in names_in("metric"):
        module, _, found = yaml_of("metric", metric, key="metric")["_target_"].rpartition(".")
        homes[found] = module
    if name not in homes:
        raise AttributeError(f"module {__name__} has no attribute {name!r}; it has {', '.join(sorted(homes))}")
    return getattr(importlib.import_module(homes[name]), name)
