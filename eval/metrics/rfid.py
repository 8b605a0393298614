"""Frechet distance of reconstructions from their originals; rFID by name only in the 2015 Inception's features."""

from .base import Measured, Quantity
from .choices import Choices
from .features import INCEPTION
from .frechet import FrechetDistance


class Rfid(FrechetDistance):
    """rFID where all of a protocol's images were measured, else rFID@N; in other features fid[NETWORK]@N."""

    quantities = {name: Quantity(name, better="lower", curve_decimals=2) for name in ("rfid", "rFID", "fid")}

    def frechet_key(self, count: int) -> str:
        return "rfid" if self.extractor.label == INCEPTION else super().frechet_key(count)

    def label_of(self, key: str, count: int, measured: Measured) -> str:
        if key != "rfid":
            return key
        return "rFID" if measured.whole_set else f"rFID@{count}"

    def curve_numbers(self) -> dict[str, float]:
        """Under the name that says how many images, since a curve measures some."""
        return {f"rFID@{v['n']}" if k == "rfid" else k: v["value"] for k, v in self.result().items()}

    def describe(self, protocol: Choices) -> list[tuple[str, str]]:
        count, images, crop = protocol.image_count, protocol.images, protocol.crop
        return [
            *super().describe(protocol),
            ("FID arithmetic", "float64 moments, N - 1 covariance, paired reference (the same images)"),
            ("rFID", f"by that name only for all {count:,} of {images}, {crop}; else rFID@N"),
        ]
