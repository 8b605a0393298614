"""One point of a curve: the main pass's own metrics of some pictures, at one length or by one codec."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..meters import Meters
from ..networks import Networks
from ..protocol import Protocol

METRICS = ("psnr", "ssim", "l1", "lpips_vgg", "lpips_alex", "rfid")


class CurvePoint(Meters):
    def __init__(self, *, protocol: Protocol, networks: Networks) -> None:
        wanted = tuple(m for m in protocol.metrics if m in METRICS)
        super().__init__(protocol=replace(protocol, metrics=wanted), networks=networks, layout=())

    def measure(
        self, reference: Tensor, pixels: Tensor, unrounded: Tensor, keys: Sequence[str], networks: Networks
    ) -> None:
        self.update(
            reference=reference, reconstruction=pixels, unrounded=unrounded, indices={}, keys=keys, networks=networks
        )

    def numbers(self, networks: Networks, *, of: int) -> dict[str, float]:
        """of: pictures of the whole curve. A Frechet distance of fewer would be comparable with nothing."""
        wanted = self.protocol.metrics
        values: dict[str, float] = {}
        if "psnr" in wanted:
            values["psnr"] = self.psnr.result()["psnr"]["mean"]
        if "ssim" in wanted:
            values["ssim"] = self.ssim.result()["ssim"]["mean"]
        if "l1" in wanted:
            values |= self.l1.result()
        values |= {key: meter.mean() for key, meter in self.lpips.items()}
        if self.fid is not None and self.images == of > 1:
            name = networks.extractor.name
            values[f"rFID@{of}" if name == "inception-2015" else f"fid[{name}]@{of}"] = self.frechet()
        return values


class OnceAReference:
    """The Frechet features of the reference pictures, computed once and not once a point."""

    def __init__(self, extractor: Any, reference: Tensor) -> None:
        self.extractor, self.reference = extractor, reference
        self.known: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.extractor, name)

    def __call__(self, images: Tensor) -> Any:
        if images is not self.reference:
            return self.extractor(images)
        self.known = self.known or self.extractor(images)
        return self.known
