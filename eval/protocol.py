"""Evaluation protocol: every choice that can change a number, under one name and one hash.

The hash covers the choices that define a number, not where the weight files lie nor which metrics were asked for, so
`tok-eval/v1@3f2c` printed twice is the same protocol twice, whatever machine it ran on.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..common.errors import UserError, did_you_mean
from .metrics.choices import Choices
from .metrics.features import extractor
from .metrics.networks import Network
from .metrics.registry import build_metric, hashed_settings

PROBES = ("linear_probe", "knn", "zero_shot", "retrieval", "teacher_cosine")  # eval/probes
CHOICES = {
    "rounding": ("round", "floor"),
    "extractor": ("inception-2015", "randconv-64"),
    "fid_pixels": ("uint8", "float"),
    "fid_resize": ("tf1_bilinear", "half_pixel_bilinear", "antialias_bilinear"),
    "ssim_window": ("gaussian11", "uniform7"),
}
# Where the files lie and what was asked for; neither changes what a printed number means.
NOT_HASHED = {"name", "metrics", "probes", "probe_images", "inception", "lpips_vgg", "lpips_alex", "weights"}
NOT_HASHED |= {"settings", "small"}  # of these, what the chosen metrics make of them


@dataclass(frozen=True, kw_only=True)
class Protocol(Choices):
    """Defaults are `tok-eval/v1`; a YAML of `configs/protocol` names the differences."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", tuple(self.metrics))
        if isinstance(self.probes, str) and self.probes not in ("auto", "none"):
            raise UserError(f"protocol.probes={self.probes}: auto, none, or a list of {', '.join(PROBES)}")
        if not isinstance(self.probes, str):
            object.__setattr__(self, "probes", tuple(self.probes))
            for probe in self.probes:
                if probe not in PROBES:
                    raise UserError(f"protocol.probes: no probe {probe!r}; {did_you_mean(probe, PROBES)}")
        if self.probe_images < 1:
            raise UserError(f"protocol.probe_images={self.probe_images}: at least 1")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"protocol.{name}={getattr(self, name)}: one of {', '.join(allowed)}")
        for name in self.settings:
            if name not in self.metrics:
                raise UserError(f"protocol.settings.{name}: {did_you_mean(name, self.metrics)} of protocol.metrics")
        for name in self.metrics:
            build_metric(name, self)

    @classmethod
    def of_results(cls, results: Mapping[str, Any]) -> "Protocol":
        """That of a metrics.json."""
        return cls(**{k: v for k, v in results["protocol"].items() if k not in ("label", "hash")})

    @property
    def wanted_probes(self) -> tuple[str, ...]:
        if isinstance(self.probes, str):
            return PROBES if self.probes == "auto" else ()
        return self.probes

    @property
    def feature_network(self) -> Network:
        """Of the metrics that compare sets of images."""
        return extractor(self.extractor, pixels=self.fid_pixels, resize=self.fid_resize, weights=self.inception)

    @property
    def hash(self) -> str:
        fields = {k: v for k, v in asdict(self).items() if k not in NOT_HASHED}
        for name in self.metrics:  # only where it is asked for
            own = hashed_settings(name, self)
            fields |= {f"{name}.{k}": v for k, v in own.items()}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:4]

    @property
    def label(self) -> str:
        return f"{self.name}@{self.hash}"

    def as_dict(self) -> dict[str, Any]:
        fields = asdict(self) | {"metrics": list(self.metrics), "probes": list(self.wanted_probes)}
        for name, default in (("weights", "pretrained"), ("settings", {}), ("small", False)):
            if fields[name] == default:
                del fields[name]
        return {"label": self.label, "hash": self.hash} | fields

    def allows_rfid_name(self, data_facts: Mapping[str, Any], num_images: int) -> bool:
        """True only for all of the protocol's images, cropped its way; else the name carries the count."""
        found = f"{data_facts.get('name')}/{data_facts.get('evaluated', 'val')}"
        return (found, num_images) == (self.images, self.image_count) and self.is_own_crop(data_facts)

    def is_own_crop(self, data_facts: Mapping[str, Any]) -> bool:
        return str(data_facts.get("val_crop", "")).lower().startswith(self.crop.lower())

    def describe(self) -> list[tuple[str, str]]:
        """The protocol in words, for people who compare two tables."""
        rule = "round(clip(x, 0, 1) * 255)" if self.rounding == "round" else "floor(clip(x, 0, 1) * 255)"
        lines = [("pixels", f"reference and reconstruction to uint8 once: {rule}")]
        for name in self.metrics:
            lines += build_metric(name, self).describe(self)
        return list(dict.fromkeys(lines))
