"""Metrics by name: each is a YAML file of configs/metric, found in imtok and on Hydra's search path."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import yaml

from ...common.build import build, locate
from ...common.errors import UserError, did_you_mean
from ...configs.compose import folders_of_yaml
from .base import Metric
from .choices import Choices


def config_folders() -> list[Any]:
    """The user's own first: `--config-dir`, hydra.searchpath."""
    return [*folders_of_yaml, files("imtok.configs")]


def yaml_of(group: str, name: str, *, key: str) -> dict[str, Any]:
    """configs/GROUP/NAME.yaml as it stands. key: the setting that names it, for error lines."""
    for folder in config_folders():
        file = folder / group / f"{name}.yaml"
        if file.is_file():
            return yaml.safe_load(file.read_text("utf-8"))
    raise UserError(f"{key}: no {group} {name!r}; {did_you_mean(name, names_in(group))}")


def names_in(group: str) -> list[str]:
    folders = [folder / group for folder in config_folders()]
    found = {file.name for folder in folders if folder.is_dir() for file in folder.iterdir()}
    return sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml"))


def metric_node(name: str, protocol: Choices) -> dict[str, Any]:
    """The YAML with the protocol's own settings of this metric laid over it."""
    own = dict(protocol.settings.get(name, {}))
    node = own if "_target_" in own else yaml_of("metric", name, key="protocol.metrics")
    return node | (node.get("tiny", {}) if protocol.small else {}) | own


def metric_class(name: str, protocol: Choices) -> type[Metric]:
    found = locate(metric_node(name, protocol)["_target_"], key=f"protocol.settings.{name}")
    if not issubclass(found, Metric):
        key = f"protocol.settings.{name}._target_"
        raise UserError(f"{key}={found.__name__}: not a class of imtok.eval.metrics.base.Metric")
    return found


def build_metric(name: str, protocol: Choices) -> Metric:
    fields = metric_class(name, protocol).protocol_fields
    given = {argument: getattr(protocol, field) for argument, field in fields.items()}
    return build(metric_node(name, protocol), key=f"protocol.settings.{name}", **given)


def hashed_settings(name: str, protocol: Choices) -> Mapping[str, Any]:
    """What of a metric's own settings defines its numbers."""
    metric = build_metric(name, protocol)
    return {field: getattr(metric, field) for field in metric.own_fields}
